"""The stages of a request, the same in every transport and for all four kinds of RPC.

From the outside in:

1. telemetry: `telemetry.request_scope` logs and counts how the request ended;
2. errors: `ErrorBoundary` turns an exception into the error that the caller gets;
3. admission: `Pipeline.deadline` limits the time of a request without streams, `StreamTimes` that
   of a stream of requests. `Pipeline.place` limits the requests in progress;
4. authentication: `Pipeline.authenticate` identifies the caller and counts its rate. `KeyWatch`
   checks the key of a stream until it ends;
5. authorization: `Pipeline.authorize` checks the permission, and counts the request against the
   caller's share of the places.

The transports convert a request into an Operation and a RequestContext, and render its error.

The order ensures that refused requests are logged and counted, that a look-up of credentials takes
a place and has a deadline, that the deadline includes the wait for a place, and that a request
without permission is refused before it is parsed.
"""

from contextlib import AbstractContextManager

from interaction_svc.admission.concurrency import UNKNOWN, ConcurrencyLimit
from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.deadline import SharedDeadline
from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.errors import Overloaded
from interaction_svc.domain.principals import Principal
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline.errors import ErrorBoundary
from interaction_svc.transports.pipeline.interruptible import Interruptible
from interaction_svc.transports.pipeline.key_watch import KeyWatch
from interaction_svc.transports.pipeline.stream_times import StreamTimes

__all__ = ["ErrorBoundary", "Interruptible", "KeyWatch", "Pipeline", "StreamTimes"]


class Pipeline:
    """The stages that need the service's limits and keys; one object for all transports."""

    def __init__(self, authenticator: Authenticator, admission: AdmissionControl) -> None:
        self._authenticator = authenticator
        self.request_bytes = admission.request_bytes
        self.response_backlog = admission.response_backlog
        self.deadline = SharedDeadline(admission.deadline_seconds)
        """Context manager around the work of a request without streams."""
        self._concurrency = admission.concurrency
        self._request_rate = admission.request_rate

    def refuses(self, operation: Operation) -> bool:
        """Return whether a request of this operation would get no place now and could not wait."""
        return operation.is_limited and self._concurrency.refuses

    def place(self) -> AbstractContextManager[None] | None:
        """Return a context manager that holds a place within the concurrency limit.

        Return None if there is none: then use `wait_for_place`. Two methods, because a coroutine
        for each request costs more than the rest of this stage.
        """
        return self._concurrency.place()

    async def wait_for_place(
        self, operation: Operation, authorization: str | None
    ) -> AbstractContextManager[None]:
        """Wait for a place, and return a context manager that holds it.

        The wait of a stream, which has no deadline, ends at the deadline of other requests. The
        caller is not authenticated yet. If its credentials were accepted in the last 2 s, it counts
        under its account among the waiting requests. All others count together. Unknown methods do
        not wait. Raises Overloaded, DeadlineExceeded.
        """
        if not operation.needs_credentials:
            raise Overloaded
        principal = self._authenticator.cached(authorization)
        name = UNKNOWN if principal is None else principal.quota_key
        if operation.has_deadline:
            return await self._concurrency.wait_for_place(name)
        with self.deadline:
            return await self._concurrency.wait_for_place(name)

    def authenticate_cached(self, request: RequestContext, credentials: str | None) -> bool:
        """Do what `authenticate` does if no look-up is needed, else return False.

        It is not a coroutine: two more coroutines cost a REST Get 3 %. Raises RateLimited.
        """
        principal = self._authenticator.cached(credentials)
        if principal is None:
            return False
        request.principal = principal
        self._request_rate.count(principal)
        return True

    async def authenticate(self, request: RequestContext, credentials: str | None) -> None:
        """Set the request's principal, and count the request against its rate.

        Raises Unauthenticated, RateLimited, Unavailable.
        """
        request.principal = await self._authenticator.authenticate(credentials, request.peer)
        self._request_rate.count(request.principal)

    def watch_key(self, request: RequestContext) -> KeyWatch:
        """Return a context manager that checks the key of a stream until the stream ends."""
        return KeyWatch(self._authenticator, request)

    def authorize(self, operation: Operation, principal: Principal) -> "_Share | None":
        """Count the request against the principal's share, until the returned block ends.

        Return None if the account has its whole share: then use `wait_for_share`. Raises
        PermissionDenied if the principal lacks the operation's permission, and Overloaded for a
        stream.
        """
        if operation.permission is not None:
            principal.require(operation.permission)
        is_stream = operation.is_streaming
        if not self._concurrency.begin(principal, is_stream=is_stream):
            return None
        return _Share(self._concurrency, principal, is_stream)

    async def wait_for_share(self, request: RequestContext) -> "_Share":
        """Do what `authorize` does after a wait. Meanwhile the request does not hold its place.

        The key may have been revoked during the wait, so it is checked again. Raises Overloaded,
        Unauthenticated, Unavailable.
        """
        await self._concurrency.wait_for_share(request.principal)
        share = _Share(self._concurrency, request.principal, is_stream=False)
        try:
            await self._authenticator.check_again(request.authorization)
        except BaseException:
            share.__exit__()
            raise
        return share


class _Share:
    """Context manager that ends the count of one request against its principal's share."""

    __slots__ = ("_concurrency", "_is_stream", "_principal")

    def __init__(
        self, concurrency: ConcurrencyLimit, principal: Principal, is_stream: bool
    ) -> None:
        self._concurrency = concurrency
        self._principal = principal
        self._is_stream = is_stream

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._concurrency.end(self._principal, is_stream=self._is_stream)
