"""Authentication: identifies the caller and checks its permission before the request is read."""

from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from interaction_svc.domain.errors import PermissionDenied, Unauthenticated
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.grpcio.interceptors.chain import Behavior, Context, Interceptor
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline


class Authentication(Interceptor):
    """Identifies callers, counts them against their limits, and checks their permission.

    Operations that need no credentials, and those in `open_to_all`, are not checked.
    `is_peer_allowed` checks the names in the client's TLS certificate. A stream ends when its key
    is revoked, even if nothing is sent on it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        open_to_all: Collection[Operation],
        is_peer_allowed: Callable[[Context], bool],
    ) -> None:
        self._pipeline = pipeline
        self._open_to_all = open_to_all
        self._is_peer_allowed = is_peer_allowed

    def around(self, operation: Operation, behavior: Behavior) -> Behavior:
        """Authenticate callers."""
        if not operation.needs_credentials or operation in self._open_to_all:
            return behavior
        has_permission = operation.permission is not None
        if operation.is_streaming and has_permission:
            behavior = self._while_key_is_valid(operation, behavior)
        pipeline = self._pipeline

        async def authenticated(request: Any, context: Context) -> Any:
            call = current_request()
            if not self._is_peer_allowed(context):
                raise PermissionDenied("The client certificate's names are not among those allowed")
            if call.bad_authorization:
                raise Unauthenticated(call.bad_authorization)
            if not pipeline.authenticate_cached(call, call.authorization):
                await pipeline.authenticate(call, call.authorization)
            if not has_permission:
                return await behavior(request, context)
            share = pipeline.authorize(operation, call.principal)
            with share or await pipeline.wait_for_share(call):
                return await behavior(request, context)

        return authenticated

    def _while_key_is_valid(self, operation: Operation, behavior: Behavior) -> Behavior:
        """Return a stream's behavior that raises Unauthenticated once the stream's key is revoked.

        A stream of responses can be interrupted at any point. A stream of requests with one
        response is interrupted only between two requests, so that the outcome of each is known.
        """

        async def respond(request: Any, context: Context) -> None:
            with self._pipeline.watch_key(current_request()) as watch, watch.interruptible:
                await behavior(request, context)

        async def receive(requests: AsyncIterator[Any], context: Context) -> Any:
            with self._pipeline.watch_key(current_request()) as watch:
                return await behavior(watch.interrupt_between(requests), context)

        return respond if operation.kind.streams_responses else receive
