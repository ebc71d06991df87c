"""A call of the gRPC server to itself, which checks that the server still answers calls.

The call passes grpc's core and the event loop as calls of the API do. It uses an abstract Unix
socket, which reaches this process and no other worker on the port, needs no client
certificate, does not count against the connection limit, and creates no file.
"""

import secrets
import sys
from typing import Any

import grpc

from interaction_svc.transports.grpcio.accept_loop import AcceptingServer
from interaction_svc.transports.grpcio.interceptors.chain import Context, Handler

PROBE_TIMEOUT_SECONDS = 5.0
MAX_SILENT_PROBES = 3
"""Consecutive unanswered probes that count as a failure. A suspend of the machine can cause one."""


class SelfProbe:
    """The handler of the probe and its client."""

    method: str
    """The full name of the method that is called."""
    handler: Handler

    def __init__(self) -> None:
        name = secrets.token_hex(16)
        self._address = f"unix-abstract:interaction-svc-{name}"
        # The random name keeps other programs from calling the method.
        self.method = f"/interaction_svc.SelfProbe/{name}"
        make: Any = grpc.unary_unary_rpc_method_handler
        self.handler = make(_answer)
        self._channel: grpc.aio.Channel | None = None
        self._silent = 0

    def listen(self, server: AcceptingServer) -> None:
        """Make the server listen for probes, on systems with abstract sockets."""
        if sys.platform == "linux":
            server.add_insecure_port(self._address)
            self._channel = grpc.aio.insecure_channel(self._address)

    async def is_unresponsive(self) -> bool:
        """Probe, and return whether the last MAX_SILENT_PROBES probes were unanswered.

        An error counts as an answer, because grpc's core refuses calls under overload.
        """
        if self._channel is None:
            return False
        call: Any = self._channel.unary_unary(self.method)
        try:
            await call(b"", timeout=PROBE_TIMEOUT_SECONDS)
            self._silent = 0
        except grpc.aio.AioRpcError as error:
            is_silence = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            self._silent = self._silent + 1 if is_silence else 0
        return self._silent >= MAX_SILENT_PROBES

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()


def is_probe_call(context: Context) -> bool:
    """Return whether a call arrived on the probe's socket, which is for probes only."""
    return context.peer().startswith("unix")


async def _answer(_: bytes, __: Context) -> bytes:
    return b""
