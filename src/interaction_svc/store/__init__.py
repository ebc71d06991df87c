"""Where Interactions are kept: the Store interface, its errors, and what opens one by its URL."""

from interaction_svc.store.errors import (
    NotAStoreError,
    SchemaTooNewError,
    StoreBusyError,
    StoreClosedError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    StoreURLError,
)
from interaction_svc.store.interface import (
    Filter,
    Key,
    Outcome,
    PageQuery,
    Recorded,
    ScanPosition,
    Scope,
    Store,
    StoredPage,
    StoreReport,
)
from interaction_svc.store.keys import StoredKey
from interaction_svc.store.opening import (
    DEFAULT_URL,
    backup_store,
    check_store,
    check_url,
    distribute_store,
    open_store,
)
from interaction_svc.store.postgres.limits import PostgresLimits
from interaction_svc.store.rows import Row, decode, decode_record, records_of, row_of
from interaction_svc.store.sweeping import Expired, SweepPosition, Swept, TookPart

__all__ = [
    "DEFAULT_URL",
    "Expired",
    "Filter",
    "Key",
    "NotAStoreError",
    "Outcome",
    "PageQuery",
    "PostgresLimits",
    "Recorded",
    "Row",
    "ScanPosition",
    "SchemaTooNewError",
    "Scope",
    "Store",
    "StoreBusyError",
    "StoreClosedError",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreReport",
    "StoreURLError",
    "StoreUnavailableError",
    "StoredKey",
    "StoredPage",
    "SweepPosition",
    "Swept",
    "TookPart",
    "backup_store",
    "check_store",
    "check_url",
    "decode",
    "decode_record",
    "distribute_store",
    "open_store",
    "records_of",
    "row_of",
]
