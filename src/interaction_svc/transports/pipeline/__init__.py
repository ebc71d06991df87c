"""The stages of a request, the same in every transport and for all four kinds of RPC.

From the outside in:

1. telemetry: `telemetry.request_scope` logs and counts how the request ended;
2. errors: `ErrorBoundary` turns an exception into the error that the caller gets;
3. admission: `Pipeline.place` limits the requests in progress. `Pipeline.deadline` limits the time
   of a request without streams, `StreamTimes` that of a stream of requests;
4. authentication: `Pipeline.authenticate` identifies the caller and counts its rate. `KeyWatch`
   checks the key of a stream until it ends;
5. authorization: `Pipeline.authorize` checks the permission, and counts the request against the
   caller's share of the places.

The transports convert a request into an Operation and a RequestContext, and render its error.

The order ensures that refused requests are logged and counted, that a look-up of credentials takes
a place and has a deadline, and that a request without permission is refused before it is parsed.
"""

from contextlib import AbstractContextManager

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.deadline import SharedDeadline
from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.principals import Principal
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline.errors import ErrorBoundary
from interaction_svc.transports.pipeline.key_watch import Interruptible, KeyWatch
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
        """Return whether a request of this operation would be refused now for lack of a place."""
        return operation.is_limited and self._concurrency.is_full

    def place(self) -> AbstractContextManager[None]:
        """Hold a place within the concurrency limit. Raises Overloaded if there is none."""
        return self._concurrency.slot()

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

    def authorize(self, operation: Operation, principal: Principal) -> "_Share":
        """Return a context manager that counts the request against the principal's share.

        Raises PermissionDenied if the principal lacks the operation's permission, and on entry
        Overloaded.
        """
        if operation.permission is not None:
            principal.require(operation.permission)
        return _Share(self._concurrency, principal, operation.is_streaming)


class _Share:
    """Context manager that counts one request against its principal's share of the places."""

    __slots__ = ("_concurrency", "_is_stream", "_principal")

    def __init__(
        self, concurrency: ConcurrencyLimit, principal: Principal, is_stream: bool
    ) -> None:
        self._concurrency = concurrency
        self._principal = principal
        self._is_stream = is_stream

    def __enter__(self) -> None:
        self._concurrency.begin(self._principal, is_stream=self._is_stream)

    def __exit__(self, *_: object) -> None:
        self._concurrency.end(self._principal, is_stream=self._is_stream)
