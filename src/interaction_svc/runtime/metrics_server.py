"""The listener that serves the metrics to Prometheus."""

import asyncio
import socket
from contextlib import suppress
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from interaction_svc.transports.address import Address
from interaction_svc.transports.sockets import (
    CHECK_SECONDS,
    addresses_of,
    bind,
    cannot_listen,
    listens,
)


class MetricsServer:
    """Serves the metrics of a registry under /metrics, from a thread for each address."""

    def __init__(self, address: Address, registry: CollectorRegistry = REGISTRY) -> None:
        self._address = address
        self._registry = registry
        self._servers: list[tuple[WSGIServer, Thread]] = []

    def start(self) -> Address:
        """Listen, and return the address with its real port. Raises OSError if it can't listen."""
        try:
            bound = bind(self._address)
            port = bound[0].getsockname()[1]
            for one in bound:
                one.close()
            for host, _ in addresses_of(self._address):
                self._servers.append(start_http_server(port, host, self._registry))
        except OSError as error:
            raise cannot_listen("metrics", self._address, error) from error
        return self._address._replace(port=port)

    async def failure(self) -> str:
        """Wait until a listener ends without `stop`, and return the cause."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for server, thread in self._servers:
                if not thread.is_alive():
                    return "its thread has ended"
                if not listens(server.socket):
                    return "its socket is closed"

    async def stop(self) -> None:
        """Stop listening, and wait until the threads have ended."""
        for server, thread in self._servers:
            # The thread checks every 0.5 s whether to end. Shutting the socket down wakes it up.
            with suppress(OSError):  # some systems can't shut down a listening socket
                server.socket.shutdown(socket.SHUT_RDWR)
            if thread.is_alive():  # shutdown() may wait for ever if the thread has ended
                await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(thread.join)
