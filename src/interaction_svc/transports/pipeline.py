"""The stages that each request passes, in every transport and for all four kinds of RPC.

From the outside in:

1. telemetry: `telemetry.request_scope` logs and counts how the request ended;
2. errors: `ErrorBoundary` turns any exception into the error that the caller gets;
3. admission: `Pipeline.place` and `Pipeline.deadline` bound the work in progress and its time;
4. authentication: `Pipeline.authenticate` identifies the caller and counts its rate;
5. authorization: `Pipeline.authorize` checks the permission and the caller's share.

The order is part of the design. Refused requests are logged and counted. Checking credentials
takes a place and has a deadline. A caller without permission learns nothing from its request.
"""

from contextlib import AbstractContextManager
from types import TracebackType

import structlog

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.deadline import SharedDeadline
from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.errors import Internal, ServiceError
from interaction_svc.domain.principals import Principal
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.operations import Operation

log = structlog.get_logger()


class ErrorBoundary:
    """Context manager that keeps exceptions of a request and notes them as its `error`.

    A ServiceError is kept as it is. Another exception is logged with a reference and becomes
    Internal, which shows the caller the reference alone. Exceptions of `passes`, and those that
    are not an Exception, such as CancelledError, leave the block.
    """

    __slots__ = ("_passes", "_request")

    def __init__(
        self, request: RequestContext, passes: type[Exception] | tuple[type[Exception], ...] = ()
    ) -> None:
        self._request = request
        self._passes = passes

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        cause: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(cause, Exception) or isinstance(cause, self._passes):
            return False
        if isinstance(cause, ServiceError):
            # The traceback would keep what the request has made, such as a response, in memory.
            self._request.error = cause.with_traceback(None)
            return True
        error = Internal()
        log.error("internal error", reference=error.reference, exc_info=cause)
        self._request.error = error
        return True


class Pipeline:
    """The stages that need the service's limits and keys; one object for all transports."""

    def __init__(self, authenticator: Authenticator, admission: AdmissionControl) -> None:
        self.authenticator = authenticator
        self.response_backlog = admission.response_backlog
        self.deadline = SharedDeadline(admission.deadline_seconds)
        """Context manager around the work of a request without streams."""
        self._concurrency = admission.concurrency
        self._request_rate = admission.request_rate

    def refuses(self, operation: Operation) -> bool:
        """Return whether a request of this operation would find no place now."""
        return operation.is_limited and self._concurrency.is_full

    def place(self) -> AbstractContextManager[None]:
        """Hold a place within the concurrency limit. Raises Overloaded if there is none."""
        return self._concurrency.slot()

    async def authenticate(self, request: RequestContext, credentials: str | None) -> None:
        """Set the request's principal, and count the request against its rate.

        Raises Unauthenticated, RateLimited, Unavailable.
        """
        request.principal = await self.authenticator.authenticate(credentials, request.peer)
        self._request_rate.count(request.principal)

    def authorize(
        self, operation: Operation, principal: Principal, *, is_stream: bool = False
    ) -> "_Share":
        """Return a context manager that counts the request against the principal's share.

        Raises PermissionDenied if the principal lacks the operation's permission, and on entry
        Overloaded.
        """
        if operation.permission is not None:
            principal.require(operation.permission)
        return _Share(self._concurrency, principal, is_stream)


class _Share:
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
