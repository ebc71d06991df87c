"""The errors of a store.

StoreError
├── StoreURLError           the URL names no store that this program knows
├── NotAStoreError          the file or database is something else
├── SchemaTooNewError       a later version of this program has been there
├── StoreUnavailableError   it can't be used at the moment: locked, unreadable, replaced
│   └── StoreDamagedError   some of it isn't what was written
├── StoreFullError          its disk has no room; nothing was done
├── StoreBusyError          too much waits to be written; nothing was done
├── DamagedRowError         a stored Interaction can't be read
├── AmbiguousAccountError   several accounts have what was asked for across accounts
└── StoreClosedError        it was closed
"""

from interaction_svc.domain.errors import OperatorError


class StoreError(OperatorError):
    """The base of all errors of a store. The texts are for operators, not for callers."""


class StoreURLError(StoreError):
    """The URL names no store that this program knows."""


class NotAStoreError(StoreError):
    """The file or database of the URL exists, but is not a store of this program."""


class SchemaTooNewError(StoreError):
    """The schema is of a later version than this program knows; it must not be touched."""


class StoreUnavailableError(StoreError):
    """The store can't be used at the moment; the same call may succeed later."""


class StoreDamagedError(StoreUnavailableError):
    """Some of the store isn't what was written; it may be usable once it has been restored."""


class StoreFullError(StoreError):
    """The store's disk has no room for what was to be written; nothing was done."""


class StoreBusyError(StoreError):
    """Too much is waiting to be written; nothing was done."""


class DamagedRowError(StoreError):
    """The bytes of a stored Interaction are not an Interaction any more."""


class AmbiguousAccountError(StoreError):
    """Several accounts have an Interaction of this key, and the call names none of them."""


class StoreClosedError(StoreError):
    """The store has been closed."""
