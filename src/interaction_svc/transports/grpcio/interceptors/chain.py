"""The chain of interceptors around every gRPC method, and the types that interceptors share."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from interaction_svc.domain.errors import MalformedRequest, Overloaded, UnknownMethod
from interaction_svc.transports.operations import RPCS, UNKNOWN_RPC, Operation

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:  # generic in their stubs only
    Context = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler
Behavior = Callable[[Any, Context], Awaitable[Any]]


class Method(NamedTuple):
    """A gRPC method: its operation, and which sides of its calls are streams."""

    operation: Operation
    request_streaming: bool = False
    response_streaming: bool = False

    @property
    def is_streaming(self) -> bool:
        """Return whether either side is a stream."""
        return self.request_streaming or self.response_streaming


class Interceptor(ABC):
    """Does something around calls."""

    @abstractmethod
    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Return what is done in place of a method's behavior; the behavior itself for nothing.

        It is called once for each method, so what depends on the method alone is done here. A
        request is the bytes of a message or, if the method's requests are a stream, an iterator
        over them. The behavior returns the response or, if the method's
        responses are a stream, writes each to the context and returns None.
        """


class Chain(grpc.GenericRpcHandler):
    """Puts interceptors around every method, the outermost first; methods there aren't, too.

    To grpc it is the one handler there is. An interceptor of grpc's own would have every call ask
    for its handler in a coroutine more: a twentieth of what an empty RPC costs.
    """

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        *,
        refuses: Callable[[Operation], bool],
        operations: Mapping[str, Operation] = RPCS,
    ) -> None:
        """Build a chain for the methods of `operations`, by gRPC method.

        `refuses` decides whether a call is refused before its request is read.
        """
        self._interceptors = interceptors
        self._refuses = refuses
        self._operations = operations
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, tuple[Handler, Operation]] = {}
        self.registered: dict[str, dict[str, Handler]] = {}
        self._unknown = self._raising(UnknownMethod)
        self._overloaded = self._raising(Overloaded)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take the methods of these; generated code adds them, to what it takes for a server."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Take methods that get a queue of their own in grpc's core; generated code adds them.

        They are in `registered`, wrapped, for the server to be given.
        """
        self.registered[service] = {
            name: self._wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()
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
            known = self._wrapped[method] = self._wrap(method, found), self._operations[method]
        handler, operation = known
        return self._overloaded if self._refuses(operation) else handler

    def _wrap(self, name: str, handler: Handler) -> Handler:
        of_handler: Any = handler
        behavior: Any = next(
            behavior
            for behavior in (
                of_handler.unary_unary,
                of_handler.unary_stream,
                of_handler.stream_unary,
                of_handler.stream_stream,
            )
            if behavior is not None
        )
        method = Method(
            self._operations[name], handler.request_streaming, handler.response_streaming
        )
        if handler.request_deserializer is not None:
            behavior = _parsing(method, behavior, handler.request_deserializer)
        kind = f"{_ARITY[method.request_streaming]}_{_ARITY[method.response_streaming]}"
        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        around = self._around(method, _writing(behavior) if method.response_streaming else behavior)
        wrapped: Handler = make(around, None, handler.response_serializer)
        return wrapped

    def _around(self, method: Method, behavior: Behavior) -> Behavior:
        for interceptor in reversed(self._interceptors):
            behavior = interceptor.around(method, behavior)
        return behavior

    def _raising(self, error: Callable[[], Exception]) -> Handler:
        """Give a handler that fails without reading the request: it takes a stream of them."""

        async def refuse(_: Any, __: Context) -> bytes:
            raise error()

        make: Any = grpc.stream_unary_rpc_method_handler
        handler: Handler = make(self._around(Method(UNKNOWN_RPC, request_streaming=True), refuse))
        return handler


_ARITY = {False: "unary", True: "stream"}


def _parsing(method: Method, behavior: Any, parse: Callable[[bytes], Any]) -> Behavior:
    """Return a library's behavior as one that takes bytes. It raises MalformedRequest.

    Where grpc parses a request itself, bad bytes never reach the interceptors: the caller gets the
    text of an exception, and the log a traceback.
    """

    def parsed(request: bytes) -> Any:
        try:
            return parse(request)
        except DecodeError as error:
            raise MalformedRequest("The request is not a valid message of this method") from error

    async def each(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for request in requests:
            yield parsed(request)

    take = each if method.request_streaming else parsed
    return lambda request, context: behavior(take(request), context)


def _writing(behavior: Any) -> Behavior:
    """Turn a behavior that may be a generator of responses into one that writes them."""

    async def written(request: Any, context: Context) -> None:
        responses = behavior(request, context)
        if inspect.isasyncgen(responses):
            async with aclosing(responses):
                async for response in responses:
                    await context.write(response)
        else:
            await responses

    return written
