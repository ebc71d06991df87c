"""A TCP proxy that drops connections without a FIN, as a firewall or a load balancer does."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_HOST = "127.0.0.1"
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class TcpProxy:
    """Forwards bytes. After `forget`, a client that sends on an old connection gets a reset."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._connections: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def forget(self) -> int:
        """Drop all connections without a FIN to the clients, and return their number."""
        count = len(self._connections)
        for server in self._connections:
            server.close()
        self._connections.clear()
        return count

    def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        task = asyncio.create_task(self._serve(client, answers))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        answered, server = await asyncio.open_connection(_HOST, self._target)
        self._connections.add(server)
        answering = asyncio.create_task(self._answer(answered, answers, server))
        with suppress(ConnectionError):
            while (data := await client.read(65536)) and server in self._connections:
                server.write(data)
        if not answers.is_closing():
            connection = answers.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        answers.transport.abort()
        self._connections.discard(server)
        server.close()
        await asyncio.wait([answering])
        for writer in (server, answers):
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(
        self,
        answered: asyncio.StreamReader,
        answers: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
    ) -> None:
        with suppress(ConnectionError):
            while data := await answered.read(65536):
                answers.write(data)
        if server in self._connections:  # the server has closed the connection
            answers.close()


@asynccontextmanager
async def tcp_proxy(target: int) -> AsyncIterator[TcpProxy]:
    """Run a proxy to the port `target` until the end of the block."""
    made = TcpProxy(target)
    listening = await asyncio.start_server(made.serve, _HOST, 0)
    made.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield made
        await asyncio.gather(*made.tasks)  # they end when the clients close
