"""What PostgreSQL and the network fail with, as the errors of a store: told by SQLSTATE alone."""

import os
import socket

import asyncpg

from interaction_svc.store.errors import (
    StoreClosedError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

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
    "28000": "the server doesn't let this user in",
    "28P01": "the server doesn't take the password",
    "3D000": "there is no such database",
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

Failure = asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises, and the system's; TimeoutError is one of them."""


class StatementTimeoutError(OSError):
    """A statement wasn't answered in time, and its connection has been terminated."""


class NotAReplicaError(OSError):
    """A server that was to be read from is no replica of the store's; its text says why."""

    def __init__(self, text: str, *, is_of_another_system: bool = False) -> None:
        super().__init__(text)
        self.is_of_another_system = is_of_another_system


def sqlstate(error: BaseException) -> str:
    """Give the SQLSTATE of an error; the empty text if the server didn't send it."""
    return getattr(error, "sqlstate", None) or ""


def is_conflict(error: BaseException) -> bool:
    """Say whether a transaction was rolled back for another's sake, and may be tried again."""
    return sqlstate(error) in (SERIALIZATION_FAILURE, DEADLOCK)


def is_loss(error: BaseException) -> bool:
    """Say whether the connection was lost, and with it what became of the statement."""
    if isinstance(error, StatementTimeoutError):
        return False  # who waited that long is not to wait once more
    if isinstance(error, asyncpg.PostgresError):
        return sqlstate(error).startswith((_CONNECTION_LOST, _OPERATOR_INTERVENTION))
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_cancelled(error: BaseException) -> bool:
    """Say whether a statement was cancelled, by somebody or by the server's own timeout."""
    return sqlstate(error) == _CANCELLED


def is_full_house(error: BaseException) -> bool:
    """Say whether the server takes no more connections than it has."""
    return sqlstate(error) == _TOO_MANY_CONNECTIONS


def ends_others(error: BaseException) -> bool:
    """Say whether other connections to that server are of no more use either."""
    if isinstance(error, StatementTimeoutError):
        return True
    return sqlstate(error).startswith((READ_ONLY, _OPERATOR_INTERVENTION))


def translated(error: Failure) -> StoreError:
    """Give the store's error; its text has nothing of what was asked for."""
    if isinstance(error, NotAReplicaError):
        return StoreUnavailableError(str(error))
    state = sqlstate(error)
    if state and not state.startswith(_CONNECTION_LOST):
        return _of_server(state)
    return StoreUnavailableError(_of_connection(error))


def _of_server(state: str) -> StoreError:
    if state == _FULL:
        return StoreFullError(f"PostgreSQL has no room on its disk (SQLSTATE {state})")
    if state in _DAMAGED:
        return StoreDamagedError(f"PostgreSQL has met damage (SQLSTATE {state})")
    return StoreUnavailableError(f"{_TEXTS.get(state, 'PostgreSQL failed')} (SQLSTATE {state})")


def _of_connection(error: Failure) -> str:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "no server is of the kind that target_session_attrs asks for"
    if isinstance(error, StatementTimeoutError):
        return "PostgreSQL doesn't answer"
    if isinstance(error, TimeoutError):
        return "PostgreSQL can't be reached in time"
    if isinstance(error, socket.gaierror):
        return f"PostgreSQL can't be reached: {error.strerror}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"PostgreSQL can't be reached: {os.strerror(error.errno)}"
    return "the connection to PostgreSQL is lost"


def closed() -> StoreClosedError:
    """Give the error of a store that has been closed."""
    return StoreClosedError("the store has been closed")


def is_fault_of_one(error: StoreError) -> bool:
    """Say whether one of several operations in a transaction may be at fault: data, or a limit."""
    return sqlstate(error.__cause__ or error).startswith(("21", "22", "23", "54"))
