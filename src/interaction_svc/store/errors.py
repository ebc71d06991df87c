"""The errors of a store.

StoreError
├── StoreURLError           the URL is not the URL of a store
├── NotAStoreError          the file or database belongs to another program
├── SchemaTooNewError       a later version of this program has written the schema
├── StoreUnavailableError   the store is unusable at the moment: locked, unreadable, replaced
│   └── StoreDamagedError   the store is damaged
├── StoreFullError          the disk is full; nothing was written
├── StoreBusyError          too many writes are waiting; nothing was written
├── DamagedRowError         a stored Interaction is damaged
├── AmbiguousAccountError   several accounts have the key, and the call names no account
└── StoreClosedError        the store has been closed
"""

from interaction_svc.domain.errors import OperatorError


class StoreError(OperatorError):
    """The base class of store errors. Their texts are for operators, not for callers."""


class StoreURLError(StoreError):
    """The URL is not the URL of a store."""


class NotAStoreError(StoreError):
    """The file or database of the URL exists, but belongs to another program."""


class SchemaTooNewError(StoreError):
    """The schema has a later version than this program knows. It must not be changed."""


class StoreUnavailableError(StoreError):
    """The store is unusable at the moment. The same call may succeed later."""


class StoreDamagedError(StoreUnavailableError):
    """The store is damaged. It may be usable after it has been restored from a backup."""


class StoreFullError(StoreError):
    """The store's disk is full; nothing was written."""


class StoreBusyError(StoreError):
    """Too many writes are waiting; nothing was written."""


class DamagedRowError(StoreError):
    """A stored Interaction is damaged."""


class AmbiguousAccountError(StoreError):
    """Several accounts have an Interaction with this key, and the call names no account."""


class StoreClosedError(StoreError):
    """The store has been closed."""
