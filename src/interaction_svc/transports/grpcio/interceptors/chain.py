"""The chain of interceptors around every gRPC method, and the types that interceptors share."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from interaction_svc.domain.errors import Overloaded, UnknownMethod
from interaction_svc.transports.grpcio.interceptors.request_reader import RequestReader
from interaction_svc.transports.operations import UNKNOWN_RPC, Operation
from interaction_svc.transports.rpc.method import Method

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:  # generic in their stubs only
    Context = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler
Behavior = Callable[[Any, Context], Awaitable[Any]]


class Interceptor(ABC):
    """Adds one stage to calls."""

    @abstractmethod
    def around(self, operation: Operation, behavior: Behavior) -> Behavior:
        """Return `behavior` wrapped in this stage, or unchanged if the stage does not apply.

        It is called once for each operation, so decisions that depend only on the operation are
        made here. A request is the bytes of a message or, for a stream of requests, an iterator
        over them. The behavior returns the response or, for a stream of responses, writes each to
        the context and returns None.
        """


class Chain(grpc.GenericRpcHandler):
    """One grpc handler for all methods, each wrapped in all interceptors.

    Each method is wrapped once. grpc's own interceptors would wrap its handler in each call. Calls
    of unknown methods pass the interceptors too.
    """

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        methods: Mapping[Operation, Method],
        *,
        refuses: Callable[[Operation], bool],
    ) -> None:
        """Build a chain of interceptors, in order from the outermost.

        `refuses` decides whether a call is refused before its request is read.
        """
        self._interceptors = interceptors
        self._refuses = refuses
        self._reader = RequestReader()
        self._handlers = {
            operation.rpc: (self._handler(operation, _behavior(operation, method)), operation)
            for operation, method in methods.items()
        }
        self._unknown = self._raising(UnknownMethod)
        self._overloaded = self._raising(Overloaded)

    @property
    def methods(self) -> Collection[str]:
        """Return the full names of the methods."""
        return self._handlers.keys()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Return the handler of a method."""
        known = self._handlers.get(handler_call_details.method)
        if known is None:
            return self._unknown
        handler, operation = known
        return self._overloaded if self._refuses(operation) else handler

    def _handler(self, operation: Operation, behavior: Behavior) -> Handler:
        """Return a handler without serializers, because requests and responses are bytes.

        It has the type of a stream of requests, so that grpc calls it before it reads one.
        """
        if not operation.kind.streams_requests:
            behavior = self._reader.reads(operation, behavior)
        for interceptor in reversed(self._interceptors):
            behavior = interceptor.around(operation, behavior)
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if operation.kind.streams_responses
            else grpc.stream_unary_rpc_method_handler
        )
        handler: Handler = make(behavior)
        return handler

    def _raising(self, error: Callable[[], Exception]) -> Handler:
        """Return a handler that raises `error()`."""

        async def refuse(_: Any, __: Context) -> bytes:
            raise error()

        return self._handler(UNKNOWN_RPC, refuse)


def _behavior(operation: Operation, method: Method) -> Behavior:
    """Return a grpc behavior that calls a method without the context."""
    call = method.call
    if not operation.kind.streams_responses:
        return lambda request, _: call(request)

    async def written(request: Any, context: Context) -> None:
        async with aclosing(call(request)) as responses:
            async for response in responses:
                await context.write(response)

    return written
