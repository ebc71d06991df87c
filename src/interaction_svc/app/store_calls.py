"""Mapping of store errors to service errors."""

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def store_call(operation: str) -> Iterator[None]:
    """Map the store errors that the block raises to service errors.

    Raises Overloaded, StoreFull, Unavailable, AmbiguousAccount, DataLoss. `operation` is the name
    of the call in the log.
    """
    try:
        yield
    except StoreError as error:
        if mapped := _map(error, operation):
            raise mapped from error
        raise


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
