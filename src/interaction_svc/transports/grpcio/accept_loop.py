"""A server of grpc.aio whose accept loop survives any call, built on undocumented parts of grpc.

No other module uses these parts. tests/transports/grpcio/test_accept_loop.py fails if an update of
grpc changes one of them.

grpc's own accept loop has two faults that any client can cause with one HEADERS frame whose path is
not UTF-8. Decoding the path raises in the loop, which ends for good. While it ends, it frees the
memory of the requests for further calls, into which grpc's core still writes: the process crashes.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import grpc
from grpc._cython import cygrpc
from grpc.aio._server import Server

from interaction_svc.telemetry.library_logs import silenced
from interaction_svc.transports.grpcio.interceptors.chain import Handler

# grpc prints some exceptions to standard error, whose texts may have bytes of a request. It logs
# them too.
cygrpc.traceback = silenced(cygrpc.traceback)

Find = Callable[[grpc.HandlerCallDetails], Handler | None]
_UNKNOWN = ""
"""The name of every method that is not registered. Its real name may be any bytes."""


class AcceptingServer(Server):
    """A grpc.aio server that never decodes the name of a method.

    Its methods are registered in grpc's core, which compares their names as bytes, and gives each
    method its own queue.
    """

    def __init__(
        self, methods: Collection[str], find: Find, options: Sequence[tuple[str, int]]
    ) -> None:
        """Build a server that serves each call by the handler that `find` returns.

        `methods` are the full names of methods. For all others, `find` gets the name "".
        """
        self._loop = asyncio.get_running_loop()
        self._server = _AioServer(self._loop, None, (), (), tuple(options), None)
        self._server.find = find
        self._server.serving = set()
        self._server.add_registered_method_handlers(dict.fromkeys(methods))


class _AioServer(cygrpc.AioServer):  # type: ignore[misc] # it has no types
    """grpc's server with its accept loop replaced by one task for each method.

    grpc starts a task for each method and one for unknown methods, and waits for their ends.
    """

    find: Find
    serving: set[asyncio.Task[None]]
    """The calls in progress. The event loop has only weak references to its tasks."""

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call. grpc calls this."""
        return self.find(details)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._accept(method))

    async def _accept(self, method: bytes | None) -> None:
        """Serve calls of a method. Raises grpc's error for a refused request when it stops."""
        name = _UNKNOWN if method is None else method.decode()
        while True:
            request = (
                self._request_call() if method is None else self._request_registered_call(method)
            )
            task = asyncio.get_running_loop().create_task(request)
            try:
                # Not cancelled with the accept loop: grpc's core writes the call into its memory.
                state = await asyncio.shield(task)
            except asyncio.CancelledError:
                task.add_done_callback(partial(self._serve_last, name))
                raise
            self._serve(name, state)

    def _serve_last(self, name: str, request: asyncio.Task[Any]) -> None:
        """Serve the call of a request that was not cancelled, if there is one."""
        if not request.cancelled() and request.exception() is None:
            self._serve(name, request.result())

    def _serve(self, name: str, state: Any) -> None:
        loop = asyncio.get_running_loop()
        call = cygrpc._handle_rpc(name, self, (), state, loop, False)
        task = loop.create_task(cygrpc._schedule_rpc_coro(call, state, loop, name))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
