"""A call of the gRPC server to itself, which shows whether it still answers calls.

It goes through the same queue and the same accept loop as calls of the API. It comes in by an
abstract Unix socket, so that it reaches this process and no other worker on the port, needs no
client certificate, has its own count of connections, and leaves no file behind.
"""

import secrets
import sys
from typing import Any

import grpc

from interaction_svc.transports.grpcio.interceptors.chain import Context, Handler

PROBE_TIMEOUT_SECONDS = 5.0
MOST_SILENT_PROBES = 3
"""How many probes in a row may go unanswered: one may, when the process or its machine slept."""


class SelfProbe(grpc.GenericRpcHandler):
    """The handler of the call, and its caller."""

    def __init__(self) -> None:
        name = secrets.token_hex(16)
        self._address = f"unix-abstract:interaction-svc-{name}"
        # Nobody else can make the call: the name is not known.
        self._method = f"/interaction_svc.SelfProbe/{name}"
        make: Any = grpc.unary_unary_rpc_method_handler
        self._handler: Handler = make(_answer)
        self._channel: grpc.aio.Channel | None = None
        self._silent = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler for the probe's method, and None for any other."""
        return self._handler if handler_call_details.method == self._method else None

    def listen(self, server: grpc.aio.Server) -> None:
        """Have the server listen for probes, where there are abstract sockets."""
        if sys.platform == "linux":
            server.add_insecure_port(self._address)
            self._channel = grpc.aio.insecure_channel(self._address)

    async def finds_silence(self) -> bool:
        """Probe; return whether the server has left MOST_SILENT_PROBES in a row unanswered.

        An error is an answer: under overload grpc's core refuses calls by itself.
        """
        if self._channel is None:
            return False
        call: Any = self._channel.unary_unary(self._method)
        try:
            await call(b"", timeout=PROBE_TIMEOUT_SECONDS)
            self._silent = 0
        except grpc.aio.AioRpcError as error:
            is_silence = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            self._silent = self._silent + 1 if is_silence else 0
        return self._silent >= MOST_SILENT_PROBES

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()


def comes_by_probe_socket(context: Context) -> bool:
    """Return whether a call came in by the probe's socket, which only probes may."""
    return context.peer().startswith("unix")


async def _answer(_: bytes, __: Context) -> bytes:
    return b""
