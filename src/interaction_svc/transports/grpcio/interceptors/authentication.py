"""Authenticate: who is calling, and whether they may make this call, before it is read."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.rate_limits import RequestRateLimit
from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.errors import PermissionDenied, Unauthenticated
from interaction_svc.domain.principals import Permission
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.grpcio.interceptors.chain import (
    HEALTH_PREFIX,
    UNKNOWN,
    Behavior,
    Context,
    Interceptor,
    Method,
)
from interaction_svc.transports.grpcio.interceptors.key_watch import KeyWatch


class Authenticate(Interceptor):
    """Puts the caller into the Call, counts it against its limits, and checks its right.

    `rights` has what each method needs; those it doesn't name need no more than a key, or, if
    they are among `unguarded`, nothing. Health is open, and so are methods that don't exist: their
    answer is the same for everyone. `is_peer_allowed` checks the names in the peer's TLS
    certificate.

    A stream ends when its key is revoked, also if nothing is sent on it.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        concurrency: ConcurrencyLimit,
        call_rate: RequestRateLimit,
        rights: Mapping[str, Permission],
        *,
        unguarded: frozenset[str],
        is_peer_allowed: Callable[[Context], bool],
    ) -> None:
        self._authenticator = authenticator
        self._concurrency = concurrency
        self._call_rate = call_rate
        self._rights = rights
        self._unguarded = unguarded
        self._is_peer_allowed = is_peer_allowed

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Authenticate callers."""
        name = method.name
        if name == UNKNOWN or name.startswith(HEALTH_PREFIX) or name in self._unguarded:
            return behavior
        right = self._rights.get(name)
        is_stream = method.is_streaming
        if is_stream and right is not None:
            behavior = self._while_known(method, behavior)

        async def authenticated(request: Any, context: Context) -> Any:
            call = current_request()
            if not self._is_peer_allowed(context):
                raise PermissionDenied("The client certificate's names are not among those allowed")
            if call.bad_authorization:
                raise Unauthenticated(call.bad_authorization)
            call.principal = principal = await self._authenticator.authenticate(
                call.authorization, call.peer
            )
            self._call_rate.count(principal)
            if right is None:
                return await behavior(request, context)
            principal.require(right)
            self._concurrency.begin(principal, is_stream=is_stream)
            try:
                return await behavior(request, context)
            finally:
                self._concurrency.end(principal, is_stream=is_stream)

        return authenticated

    def _while_known(self, method: Method, behavior: Behavior) -> Behavior:
        """Return a stream's behavior with an end for the case that its key is revoked.

        A stream of answers is interrupted wherever it is. A stream of requests with one answer is
        interrupted between two requests only, so that it is known what became of the first.
        """

        async def answering(request: Any, context: Context) -> None:
            with KeyWatch(self._authenticator, current_request()) as watch, watch.interruptible:
                await behavior(request, context)

        async def receiving(requests: AsyncIterator[Any], context: Context) -> Any:
            with KeyWatch(self._authenticator, current_request()) as watch:
                return await behavior(_interruptible(requests, watch), context)

        return answering if method.response_streaming else receiving


async def _interruptible(requests: AsyncIterator[Any], watch: KeyWatch) -> AsyncIterator[Any]:
    while True:
        try:
            with watch.interruptible:
                request = await anext(requests)
        except StopAsyncIteration:
            return
        yield request
