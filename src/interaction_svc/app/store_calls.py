"""Asking the store: how long it takes is measured, and its errors become those of callers."""

import time
from functools import cache

import structlog
from prometheus_client import Histogram

from interaction_svc.domain.errors import (
    AmbiguousAccount,
    DataLoss,
    Overloaded,
    ServiceError,
    StoreFull,
    Unavailable,
)
from interaction_svc.store import (
    AmbiguousAccountError,
    DamagedRowError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.metric_buffer import observe

log = structlog.get_logger()


class store_call:  # noqa: N801 it stands where a function would
    """Time a call of the store in the block, and raise ServiceErrors in place of its errors.

    Raises Overloaded, StoreFull, Unavailable, AmbiguousAccount, DataLoss. It is a class, since a
    generator as a context manager costs twice as much, and this is every call's.
    """

    __slots__ = ("_begun", "_operation")

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        observe(_seconds(self._operation), time.perf_counter() - self._begun)
        if isinstance(error, StoreError) and (of_caller := self._as_callers(error)):
            raise of_caller from error

    def _as_callers(self, error: StoreError) -> ServiceError | None:
        if isinstance(error, StoreBusyError):
            return Overloaded()
        if isinstance(error, StoreFullError):
            log.warning("the store is full", operation=self._operation, cause=str(error))
            return StoreFull()
        if isinstance(error, StoreUnavailableError | StoreClosedError):
            if isinstance(error, StoreClosedError):
                return Unavailable("The service is shutting down")
            log.warning("the store can't be used", operation=self._operation, cause=str(error))
            return Unavailable("The store can't be used at the moment")
        if isinstance(error, DamagedRowError):
            log.error("an Interaction is damaged", operation=self._operation, cause=str(error))
            return DataLoss()
        return AmbiguousAccount() if isinstance(error, AmbiguousAccountError) else None


@cache
def _seconds(operation: str) -> Histogram:
    return metrics.store_seconds.labels(operation)
