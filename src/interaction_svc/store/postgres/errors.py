"""Maps errors of PostgreSQL and the network to errors of a store, by SQLSTATE alone."""

import os

import asyncpg

from interaction_svc.store.errors import (
    StoreClosedError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from interaction_svc.store.postgres.pgbouncer import is_full, pooler_text

SERIALIZATION_FAILURE = "40001"
DEADLOCK = "40P01"
READ_ONLY = "25006"
UNDEFINED_TABLE = "42P01"
UNDEFINED_COLUMN = "42703"
LOCK_NOT_AVAILABLE = "55P03"
_UNDEFINED_OPERATOR = "42883"
_OTHER_TYPE = "42804"

_CONNECTION_LOST = "08"
_OPERATOR_INTERVENTION = "57P"
_CANCELLED = "57014"
_FULL = "53100"
_TOO_MANY_CONNECTIONS = "53300"
_DAMAGED = ("XX001", "XX002")
_TEXTS = {
    _TOO_MANY_CONNECTIONS: "the server takes no more connections",
    READ_ONLY: "the server takes no writes: it is a standby, or set to read only",
    _CANCELLED: "a statement was cancelled, or took longer than it may",
    "57P01": "the server is being stopped",
    "57P02": "the server has crashed",
    "57P03": "the server is starting or stopping",
    "57P05": "the server has closed an idle connection",
    SERIALIZATION_FAILURE: "a transaction met another's, again and again",
    DEADLOCK: "a transaction met another's, again and again",
    "26000": "a pooler in transaction mode loses prepared statements: write statement_cache_size=0"
    " into the URL, or set max_prepared_statements in pgbouncer.ini",
    "42P05": "a pooler in transaction mode mixes prepared statements up: write"
    " statement_cache_size=0 into the URL, or set max_prepared_statements in pgbouncer.ini",
    "42501": "the user may not do what is needed",
    UNDEFINED_TABLE: "a table is missing: run interaction-svc migrate",
    LOCK_NOT_AVAILABLE: "a lock isn't to be had",
    **dict.fromkeys(
        (UNDEFINED_COLUMN, _UNDEFINED_OPERATOR, _OTHER_TYPE),
        "the schema has moved on to another version: use the version of interaction-svc that"
        " migrated it",
    ),
    "2BP01": "something in the database depends on a table that is to be dropped",
}

_LOST = "the connection to PostgreSQL is lost"

Failure = asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises, and the system's; TimeoutError is one of them."""


class StatementTimeoutError(OSError):
    """A statement wasn't answered in time, and its connection has been terminated."""


class NotConnectedError(OSError):
    """No server of the URL let us in; its text says why."""

    def __init__(self, text: str, *, is_connection_limit: bool = False) -> None:
        super().__init__(text)
        self.is_connection_limit = is_connection_limit


class NotAReplicaError(OSError):
    """A server that was to be read from is no replica of the store's; its text says why."""

    def __init__(self, text: str, *, is_of_another_system: bool = False) -> None:
        super().__init__(text)
        self.is_of_another_system = is_of_another_system


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error; the empty text if the server didn't send it."""
    return getattr(error, "sqlstate", None) or ""


def last_words(error: Exception) -> Exception:
    """Return what the server said before it closed the connection, or else the error itself."""
    cause = error.__cause__
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and isinstance(
        cause, asyncpg.PostgresError
    ):
        return cause
    return error


def is_conflict(error: BaseException) -> bool:
    """Return whether a transaction was rolled back for another's sake, and may be tried again."""
    return sqlstate(error) in (SERIALIZATION_FAILURE, DEADLOCK)


def is_loss(error: BaseException) -> bool:
    """Return whether the connection was lost, and with it what became of the statement."""
    if isinstance(error, StatementTimeoutError):
        return False  # who waited that long is not to wait once more
    if isinstance(error, asyncpg.PostgresError):
        return sqlstate(error).startswith((_CONNECTION_LOST, _OPERATOR_INTERVENTION))
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_cancelled(error: BaseException) -> bool:
    """Return whether a statement was cancelled, by somebody or by the server's own timeout."""
    return sqlstate(error) == _CANCELLED


def is_connection_limit(error: BaseException) -> bool:
    """Return whether the server takes no more connections than it has."""
    if isinstance(error, NotConnectedError):
        return error.is_connection_limit
    if isinstance(error, asyncpg.ProtocolViolationError):
        return is_full(error)
    return sqlstate(error) == _TOO_MANY_CONNECTIONS


def invalidates_pool(error: BaseException) -> bool:
    """Return whether other connections to that server are of no more use either."""
    if isinstance(error, StatementTimeoutError):
        return True
    return sqlstate(error).startswith((READ_ONLY, _OPERATOR_INTERVENTION))


def translated(error: Failure) -> StoreError:
    """Return the store's error; its text has nothing of what was asked for."""
    if isinstance(error, NotConnectedError | NotAReplicaError):
        return StoreUnavailableError(str(error))
    said = last_words(error)
    state = sqlstate(said)
    if isinstance(said, asyncpg.ProtocolViolationError):
        text = pooler_text(said)
        return StoreUnavailableError(f"{text or _LOST} (SQLSTATE {state})")
    if state and not state.startswith(_CONNECTION_LOST):
        return _of_server(state)
    return StoreUnavailableError(_of_connection(error))


def _of_server(state: str) -> StoreError:
    if state == _FULL:
        return StoreFullError(f"PostgreSQL has no room on its disk (SQLSTATE {state})")
    if state in _DAMAGED:
        return StoreDamagedError(f"PostgreSQL has met damage (SQLSTATE {state})")
    return StoreUnavailableError(described(state))


def described(state: str) -> str:
    """Return the text of a SQLSTATE."""
    return f"{_TEXTS.get(state, 'PostgreSQL failed')} (SQLSTATE {state})"


def _of_connection(error: Failure) -> str:
    if isinstance(error, StatementTimeoutError):
        return "PostgreSQL doesn't answer"
    if isinstance(error, OSError) and error.errno is not None:
        return f"PostgreSQL can't be reached: {os.strerror(error.errno)}"
    return _LOST


def closed() -> StoreClosedError:
    """Return the error of a store that has been closed."""
    return StoreClosedError("the store has been closed")


def is_fault_of_one(error: StoreError) -> bool:
    """Return whether the error may be of one operation alone: its data, or a limit."""
    return sqlstate(error.__cause__ or error).startswith(("21", "22", "23", "54"))
