"""The log line, the metrics and the audit line of each request."""

import time
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from interaction_svc.domain.errors import PermissionDenied, RateLimited, Unauthenticated
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.logs import audit, log_call
from interaction_svc.telemetry.metric_buffer import add, observe
from interaction_svc.telemetry.request_context import RequestContext, begin, end

_AUDITED = (Unauthenticated, PermissionDenied, RateLimited)


class request_scope:  # noqa: N801 it is used like a function
    """Context manager that sets the current request, and logs and counts it at its end.

    It is a class, because a generator as a context manager costs twice as much in every request.
    """

    __slots__ = ("_begun", "_call", "_token")

    def __init__(self, call: RequestContext) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._begun = time.perf_counter()
        add(_in_flight(self._call.transport), 1)
        self._token = begin(self._call)

    def __exit__(self, *_: object) -> None:
        call = self._call
        try:
            seconds = time.perf_counter() - self._begun
            add(_in_flight(call.transport), -1)
            observe(_seconds(call.transport, call.method), seconds)
            add(_count(call.transport, call.method, call.code), 1)
            if call.error is not None:
                metrics.errors.labels(call.transport, call.error.reason_name()).inc()
                if isinstance(call.error, _AUDITED):
                    audit("refused", reason=call.error.reason_name())
            log_call(call, seconds)
        finally:
            end(self._token)


# Children of metrics are cached: a lookup by labels costs as much as adding to the child.
@cache
def _in_flight(transport: str) -> Gauge:
    return metrics.calls_in_flight.labels(transport)


@cache
def _seconds(transport: str, method: str) -> Histogram:
    return metrics.call_seconds.labels(transport, method)


@cache
def _count(transport: str, method: str, code: str) -> Counter:
    return metrics.calls.labels(transport, method, code)
