"""The chain of interceptors around every gRPC method, and the types that interceptors share."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from interaction_svc.domain.errors import MalformedRequest, Overloaded, UnknownMethod
from interaction_svc.transports.grpcio.interceptors.request_reader import RequestReader
from interaction_svc.transports.operations import RPCS, UNKNOWN_RPC, Operation

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
        *,
        refuses: Callable[[Operation], bool],
        operations: Mapping[str, Operation] = RPCS,
    ) -> None:
        """Build a chain of interceptors, in order from the outermost.

        `refuses` decides whether a call is refused before its request is read. A method that is not
        in `operations` can't be registered.
        """
        self._interceptors = interceptors
        self._refuses = refuses
        self._reader = RequestReader()
        self._operations = operations
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, tuple[Handler, Operation]] = {}
        self.registered: dict[str, dict[str, Handler]] = {}
        self._unknown = self._raising(UnknownMethod)
        self._overloaded = self._raising(Overloaded)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add the methods of handlers. Generated code calls this on its `server` argument."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add methods that are registered in grpc's core. Generated code calls this.

        They are wrapped in the interceptors and kept in `registered`. The server registers them
        from there, so that they get their own queue.
        """
        self.registered[service] = {
            name: self._wrap(self._operations[f"/{service}/{name}"], handler)
            for name, handler in handlers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Return the wrapped handler of a method, from the cache after the first call."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None:
            answers = (of.service(handler_call_details) for of in self._handlers)
            found = next((answer for answer in answers if answer is not None), None)
            if found is None:
                return self._unknown
            operation = self._operations[method]
            known = self._wrapped[method] = self._wrap(operation, found), operation
        handler, operation = known
        return self._overloaded if self._refuses(operation) else handler

    def _wrap(self, operation: Operation, handler: Handler) -> Handler:
        kind = operation.kind
        behavior: Any = getattr(handler, kind)
        if handler.request_deserializer is not None:
            behavior = _parsing(kind.streams_requests, behavior, handler.request_deserializer)
        if kind.streams_responses:
            behavior = _writing(behavior)
        if not kind.streams_requests:
            behavior = self._reader.reads(operation, behavior)
        wrapped: Handler = _maker(operation)(
            self._around(operation, behavior), None, handler.response_serializer
        )
        return wrapped

    def _around(self, operation: Operation, behavior: Behavior) -> Behavior:
        for interceptor in reversed(self._interceptors):
            behavior = interceptor.around(operation, behavior)
        return behavior

    def _raising(self, error: Callable[[], Exception]) -> Handler:
        """Return a handler that raises `error()`.

        It has the type of a stream of requests, so that grpc calls it before it reads a request.
        """

        async def refuse(_: Any, __: Context) -> bytes:
            raise error()

        make: Any = grpc.stream_unary_rpc_method_handler
        handler: Handler = make(self._around(UNKNOWN_RPC, refuse))
        return handler


def _maker(operation: Operation) -> Any:
    """Return the function that makes a handler, which grpc calls before it reads a request."""
    if operation.kind.streams_responses:
        return grpc.stream_stream_rpc_method_handler
    return grpc.stream_unary_rpc_method_handler


def _parsing(streams_requests: bool, behavior: Any, parse: Callable[[bytes], Any]) -> Behavior:
    """Return a behavior that parses its requests, and passes them to a library's behavior.

    It raises MalformedRequest. If grpc parsed the requests, malformed ones would not reach the
    interceptors: the caller would get the text of an exception, and the log a traceback.
    """

    def parsed(request: bytes) -> Any:
        try:
            return parse(request)
        except DecodeError as error:
            raise MalformedRequest("The request is not a valid message of this method") from error

    async def each(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for request in requests:
            yield parsed(request)

    convert = each if streams_requests else parsed
    return lambda request, context: behavior(convert(request), context)


def _writing(behavior: Any) -> Behavior:
    """Return a behavior that writes the responses of `behavior`, which may be a generator."""

    async def written(request: Any, context: Context) -> None:
        responses = behavior(request, context)
        if inspect.isasyncgen(responses):
            async with aclosing(responses):
                async for response in responses:
                    await context.write(response)
        else:
            await responses

    return written
