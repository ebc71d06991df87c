"""The error stage: every exception of a request becomes an error for the caller."""

from types import TracebackType

import structlog

from interaction_svc.domain.errors import Internal, ServiceError
from interaction_svc.telemetry.request_context import RequestContext

log = structlog.get_logger()


class ErrorBoundary:
    """Context manager that catches the exceptions of a request and sets its `error`.

    A ServiceError is kept as it is. Any other exception is logged with a reference and becomes
    Internal, which shows the caller only the reference. Exceptions of the types in `passes` are
    not caught, and neither are those outside Exception, such as CancelledError.
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
            # The traceback would keep the objects of the request, such as a response, in memory.
            self._request.error = cause.with_traceback(None)
            return True
        error = Internal()
        log.error("internal error", reference=error.reference, exc_info=cause)
        self._request.error = error
        return True
