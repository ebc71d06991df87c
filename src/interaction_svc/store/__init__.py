"""The interface of a store, its errors and its rows. `store.factory` opens a store by URL."""

from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.bulk_delete import (
    BulkDeleteCursor,
    DeletedBatch,
    Expired,
    InvolvesParticipant,
)
from interaction_svc.store.errors import (
    AmbiguousAccountError,
    DamagedRowError,
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
    PageQuery,
    Reads,
    ScanPosition,
    Store,
    StoredPage,
    StoreReport,
)
from interaction_svc.store.options import PostgresLimits, ReplicaStore
from interaction_svc.store.recorded import Recorded
from interaction_svc.store.revision import UNKNOWN_REVISION, Revision
from interaction_svc.store.rows import Row, decode, merge_row, row_of

__all__ = [
    "UNKNOWN_REVISION",
    "AmbiguousAccountError",
    "ApiKey",
    "BulkDeleteCursor",
    "DamagedRowError",
    "DeletedBatch",
    "Expired",
    "InvolvesParticipant",
    "NotAStoreError",
    "PageQuery",
    "PostgresLimits",
    "Reads",
    "Recorded",
    "ReplicaStore",
    "Revision",
    "Row",
    "ScanPosition",
    "SchemaTooNewError",
    "Store",
    "StoreBusyError",
    "StoreClosedError",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreReport",
    "StoreURLError",
    "StoreUnavailableError",
    "StoredPage",
    "decode",
    "merge_row",
    "row_of",
]
