"""Mapping of store errors to service errors."""

import structlog

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

log = structlog.get_logger()


class store_call:  # noqa: N801 used like a function
    """Context manager that maps the store errors of its block to service errors.

    Raises Overloaded, StoreFull, Unavailable, AmbiguousAccount, DataLoss. `operation` is the name
    of the call in the log.
    """

    __slots__ = ("_operation",)

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, StoreError) and (mapped := _map(error, self._operation)):
            raise mapped from error


def _map(error: StoreError, operation: str) -> ServiceError | None:
    """Return the service error for a store error; None if it is an internal error."""
    if isinstance(error, StoreBusyError):
        return Overloaded()
    if isinstance(error, StoreFullError):
        log.warning("the store is full", operation=operation, cause=str(error))
        return StoreFull()
    if isinstance(error, StoreClosedError):
        return Unavailable("The service is shutting down")
    if isinstance(error, StoreUnavailableError):
        log.warning("the store can't be used", operation=operation, cause=str(error))
        return Unavailable("The store can't be used at the moment")
    if isinstance(error, DamagedRowError):
        log.error("an Interaction is damaged", operation=operation, cause=str(error))
        return DataLoss()
    return AmbiguousAccount() if isinstance(error, AmbiguousAccountError) else None
