"""Mapping of PostgreSQL errors (by SQLSTATE) and network errors to store errors."""

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
    _CANCELLED: "a statement was cancelled, or exceeded its time limit",
    "57P01": "the server is being stopped",
    "57P02": "the server has crashed",
    "57P03": "the server is starting or stopping",
    "57P05": "the server has closed an idle connection",
    SERIALIZATION_FAILURE: "a transaction conflicted with another one at each attempt",
    DEADLOCK: "a transaction conflicted with another one at each attempt",
    "26000": "a pooler in transaction mode loses prepared statements: write statement_cache_size=0"
    " into the URL, or set max_prepared_statements in pgbouncer.ini",
    "42P05": "a pooler in transaction mode mixes prepared statements up: write"
    " statement_cache_size=0 into the URL, or set max_prepared_statements in pgbouncer.ini",
    "42501": "the user lacks a permission",
    UNDEFINED_TABLE: "a table is missing: run interaction-svc migrate",
    LOCK_NOT_AVAILABLE: "a lock is not available",
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
"""All errors of asyncpg and the operating system. OSError includes TimeoutError."""


class StatementTimeoutError(OSError):
    """A statement got no answer in time, and its connection was terminated."""


class NotConnectedError(OSError):
    """No server of the URL accepted the connection. The text has the reason."""

    def __init__(self, text: str, *, is_connection_limit: bool = False) -> None:
        super().__init__(text)
        self.is_connection_limit = is_connection_limit


class NotAReplicaError(OSError):
    """A server of the replica URL is not a replica of this store. The text has the reason."""

    def __init__(self, text: str, *, is_of_another_system: bool = False) -> None:
        super().__init__(text)
        self.is_of_another_system = is_of_another_system


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error; an empty text if it is not an error of the server."""
    return getattr(error, "sqlstate", None) or ""


def last_words(error: Exception) -> Exception:
    """Return the error that the server sent before it closed the connection, or else `error`."""
    cause = error.__cause__
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and isinstance(
        cause, asyncpg.PostgresError
    ):
        return cause
    return error


def is_conflict(error: BaseException) -> bool:
    """Return whether a transaction conflicted with another one, and can be retried."""
    return sqlstate(error) in (SERIALIZATION_FAILURE, DEADLOCK)


def is_loss(error: BaseException) -> bool:
    """Return whether the connection was lost, so that the outcome of the statement is unknown."""
    if isinstance(error, StatementTimeoutError):
        return False  # no retry: the caller has already waited for the whole time limit
    if isinstance(error, asyncpg.PostgresError):
        return sqlstate(error).startswith((_CONNECTION_LOST, _OPERATOR_INTERVENTION))
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_cancelled(error: BaseException) -> bool:
    """Return whether a statement was cancelled, by an operator or by the server's timeout."""
    return sqlstate(error) == _CANCELLED


def is_connection_limit(error: BaseException) -> bool:
    """Return whether the server or the pooler has reached its connection limit."""
    if isinstance(error, NotConnectedError):
        return error.is_connection_limit
    if isinstance(error, asyncpg.ProtocolViolationError):
        return is_full(error)
    return sqlstate(error) == _TOO_MANY_CONNECTIONS


def invalidates_pool(error: BaseException) -> bool:
    """Return whether the other connections to that server are unusable as well."""
    if isinstance(error, StatementTimeoutError):
        return True
    return sqlstate(error).startswith((READ_ONLY, _OPERATOR_INTERVENTION))


def translated(error: Failure) -> StoreError:
    """Return the store error. Its text has no values of the statement."""
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
        return StoreDamagedError(f"PostgreSQL reports damaged data (SQLSTATE {state})")
    return StoreUnavailableError(described(state))


def described(state: str) -> str:
    """Return the text for a SQLSTATE."""
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
    """Return whether one operation of a batch may have caused the error by bad data or a limit."""
    return sqlstate(error.__cause__ or error).startswith(("21", "22", "23", "54"))
