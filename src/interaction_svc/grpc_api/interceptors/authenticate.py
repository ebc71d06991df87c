"""Authenticate: who is calling, and whether they may make this call, before it is read."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from interaction_svc.calls import this_call
from interaction_svc.credentials import Right
from interaction_svc.errors import PermissionDenied
from interaction_svc.grpc_api.interceptors.base import (
    HEALTH_PREFIX,
    Behavior,
    Context,
    Interceptor,
)
from interaction_svc.keys import Authenticator
from interaction_svc.limits import CallRate


class Authenticate(Interceptor):
    """Puts the caller into the Call, counts it against its rate, and checks its right.

    `rights` has what each method needs; those it doesn't name need no more than a key, or, if
    they are among `unguarded`, nothing. Health is open. `is_peer_allowed` checks the names in the
    peer's TLS certificate.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        call_rate: CallRate,
        rights: Mapping[str, Right],
        *,
        unguarded: frozenset[str],
        is_peer_allowed: Callable[[Context], bool],
    ) -> None:
        self._authenticator = authenticator
        self._call_rate = call_rate
        self._rights = rights
        self._unguarded = unguarded
        self._is_peer_allowed = is_peer_allowed

    def around(self, method: str, behavior: Behavior) -> Behavior:
        """Authenticate callers."""
        if method.startswith(HEALTH_PREFIX) or method in self._unguarded:
            return behavior
        right = self._rights.get(method)

        async def authenticated(request: Any, context: Context) -> Any:
            call = this_call()
            if not self._is_peer_allowed(context):
                raise PermissionDenied("The client certificate's names are not among those allowed")
            caller = await self._authenticator.caller(call.authorization, call.peer)
            call.caller = caller
            self._call_rate.count(caller)
            if right is not None:
                caller.require(right)
            if not isinstance(request, bytes) and right is not None:
                request = self._each_still_known(request, call.authorization, call.peer)
            return await behavior(request, context)

        return authenticated

    async def _each_still_known(
        self, requests: AsyncIterator[bytes], authorization: str | None, peer: str
    ) -> AsyncIterator[bytes]:
        """Pass the requests of a stream on until its key is revoked: it may last for hours."""
        async for request in requests:
            await self._authenticator.caller(authorization, peer)
            yield request
