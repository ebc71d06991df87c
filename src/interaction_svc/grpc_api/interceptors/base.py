"""What the interceptors share: something to do around each call with one response."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:  # generic in their stubs only
    Context = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler
Behavior = Callable[[Any, Context], Awaitable[bytes]]


class Interceptor(grpc.aio.ServerInterceptor):
    """Does something around each call with one response.

    Calls that answer with a stream are passed on as they are: here these are health's Watch and
    reflection, which touch no store and last as long as their callers like.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    @abstractmethod
    async def call(self, behavior: Behavior, request: Any, context: Context) -> bytes:
        """Make the call; `request` is a message's bytes, or an iterator over them."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of a method; once, for it is the same for every call."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:  # an unknown method; its name is not worth remembering
                return None
            self._wrapped[method] = wrapped = self._wrap(handler)
        return wrapped

    def _wrap(self, handler: Handler) -> Handler:
        if handler.response_streaming:
            return handler
        behavior: Any = handler.stream_unary or handler.unary_unary

        async def wrapped(request: Any, context: Context) -> bytes:
            return await self.call(behavior, request, context)

        make: Any = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        wrapped_handler: Handler = make(
            wrapped, handler.request_deserializer, handler.response_serializer
        )
        return wrapped_handler
