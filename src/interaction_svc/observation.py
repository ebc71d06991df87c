"""What is seen of each call, whichever way it came: a log line, metrics, and audit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import structlog
from prometheus_client import Counter, Gauge, Histogram

from interaction_svc import metrics
from interaction_svc.calls import Call, working_on
from interaction_svc.errors import PermissionDenied, RateLimited, Unauthenticated
from interaction_svc.logs import audit

log = structlog.get_logger()

_AUDITED = (Unauthenticated, PermissionDenied, RateLimited)


@contextmanager
def observed(call: Call) -> Iterator[None]:
    """Work on this call within the block; at its end log and count how it ended."""
    begun = time.perf_counter()
    in_flight = _in_flight(call.transport)
    in_flight.inc()
    with working_on(call):
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            in_flight.dec()
            _seconds(call.transport, call.method).observe(seconds)
            _count(call.transport, call.method, call.code).inc()
            if call.error is not None:
                metrics.refused.labels(call.transport, call.error.reason_name()).inc()
                if isinstance(call.error, _AUDITED):
                    audit("refused", reason=call.error.reason_name())
            (log.debug if call.is_quiet else log.info)(
                "call",
                transport=call.transport,
                method=call.method,
                code=call.code,
                ms=round(seconds * 1000, 3),
                peer=call.peer,
                key_sid=call.caller.key_sid,
                account_sid=call.caller.account_sid,
                **call.about,
            )


# To look a metric's child up by its labels costs as much as to count: done once for each.
@cache
def _in_flight(transport: str) -> Gauge:
    return metrics.calls_in_flight.labels(transport)


@cache
def _seconds(transport: str, method: str) -> Histogram:
    return metrics.call_seconds.labels(transport, method)


@cache
def _count(transport: str, method: str, code: str) -> Counter:
    return metrics.calls.labels(transport, method, code)
