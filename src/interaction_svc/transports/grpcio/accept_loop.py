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
    """grpc's server with its accept loop replaced by a chain of requests for each method.

    grpc makes a future for each method and one for unknown methods, and waits for their ends.
    """

    find: Find
    serving: set[asyncio.Task[None]]
    """The calls in progress, and the requests for calls. The event loop refers to them weakly."""

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call. grpc calls this."""
        return self.find(details)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[None]:
        """Serve calls of a method. The result is the error that ends this."""
        ended = asyncio.get_running_loop().create_future()
        self._request(method, ended)
        return ended

    def _request(self, method: bytes | None, ended: asyncio.Future[None]) -> None:
        """Request the next call. It is never cancelled: grpc's core writes into its memory."""
        call = self._request_call() if method is None else self._request_registered_call(method)
        task = asyncio.get_running_loop().create_task(call)
        self.serving.add(task)
        task.add_done_callback(partial(self._accept, method, ended))

    def _accept(
        self, method: bytes | None, ended: asyncio.Future[None], request: asyncio.Task[Any]
    ) -> None:
        self.serving.discard(request)
        if request.cancelled():  # the event loop is closing
            ended.cancel()
            return
        error: BaseException | None = request.exception()
        if error is None:
            try:
                if not ended.done():
                    self._request(method, ended)
                self._serve(_UNKNOWN if method is None else method.decode(), request.result())
            except Exception as failure:
                error = failure
        if error is not None and not ended.done():
            ended.set_exception(error)

    def _serve(self, name: str, state: Any) -> None:
        loop = asyncio.get_running_loop()
        call = cygrpc._handle_rpc(name, self, (), state, loop, False)
        task = loop.create_task(cygrpc._schedule_rpc_coro(call, state, loop, name))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
