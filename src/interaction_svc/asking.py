"""Asking the store: how long it takes is measured, and its errors become those of callers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from interaction_svc import metrics
from interaction_svc.errors import Overloaded, StoreFull, Unavailable
from interaction_svc.store import (
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreUnavailableError,
)

log = structlog.get_logger()


@contextmanager
def asking(operation: str) -> Iterator[None]:
    """Ask the store within the block. Raises Overloaded, StoreFull, Unavailable."""
    begun = time.perf_counter()
    try:
        yield
    except StoreBusyError as error:
        raise Overloaded from error
    except StoreFullError as error:
        log.warning("the store is full", operation=operation)
        raise StoreFull from error
    except StoreClosedError as error:
        raise Unavailable("The service is shutting down") from error
    except StoreUnavailableError as error:
        log.warning("the store can't be used", operation=operation, cause=str(error))
        raise Unavailable("The store can't be used at the moment") from error
    finally:
        metrics.store_seconds.labels(operation).observe(time.perf_counter() - begun)
