"""The meaning of SQLSTATE 08P01, which PgBouncer sends for nearly all of its errors.

The error is classified by the beginning of its message, which PgBouncer never translates. The
message itself is not shown.
"""

import re

import asyncpg

PROTOCOL_VIOLATION = "08P01"

_LOGIN_FAILS = "PgBouncer can't log in to PostgreSQL: its log says why"
_NOT_LET_IN = "PgBouncer doesn't let this user in"
_WRONG_PASSWORD = "PgBouncer doesn't take the password"  # noqa: S105 a text
_FULL = "PgBouncer takes no more connections: raise {0} in pgbouncer.ini"
_STOPPING = "PgBouncer is being stopped"
_TEXTS = {  # pattern for the beginning of the message: our text
    "no such database": "PgBouncer knows no such database",
    'database ".*" does not exist': "there is no such database",
    'database ".*" is disabled': "PgBouncer has disabled the database",
    "no such user": "PgBouncer knows no such user",
    "password authentication failed": _WRONG_PASSWORD,
    "SASL authentication failed": _WRONG_PASSWORD,
    "login rejected": _NOT_LET_IN,
    '"trust" authentication failed': _NOT_LET_IN,
    "unix socket login rejected": _NOT_LET_IN,
    "SSL required": "PgBouncer wants TLS: write sslmode=verify-full or require",
    "unsupported options startup parameter": "PgBouncer takes only -c name=value in `options`",
    "unsupported startup parameter": "PgBouncer doesn't take a startup parameter",
    "no more connections allowed": _FULL.format("max_client_conn"),
    "client connections exceeded": _FULL.format("max_user_client_connections or the database's"),
    "query_wait_timeout": "PgBouncer had no connection free within query_wait_timeout",
    "query_timeout": "PgBouncer ended a statement after query_timeout",
    "client_idle_timeout": "PgBouncer closed an idle connection after client_idle_timeout",
    "client_login_timeout": "PgBouncer couldn't log in to PostgreSQL within client_login_timeout",
    "server login has been failing": f"{_LOGIN_FAILS}; it tries again after server_login_retry",
    "server login failed": _LOGIN_FAILS,
    "pgbouncer cannot connect to server": _LOGIN_FAILS,
    "server conn crashed": "PgBouncer has lost its connection to PostgreSQL",
    "server shutting down": _STOPPING,
    "pooler is shutting down": _STOPPING,
    "prepared statement": "PgBouncer mixes prepared statements up: write statement_cache_size=0"
    " into the URL",
}
_UNSUPPORTED = re.compile(r"unsupported startup parameter(?: in options)?: ([\w.]{1,63})")


def pooler_text(error: asyncpg.PostgresError) -> str | None:
    """Return our text for the error; None for an unknown message."""
    message = _message(error)
    return next((text for start, text in _TEXTS.items() if re.match(start, message)), None)


def is_full(error: asyncpg.PostgresError) -> bool:
    """Return whether the pooler has reached its connection limit."""
    return _message(error).startswith(
        ("no more connections allowed", "client connections exceeded")
    )


def unsupported_parameter(error: asyncpg.PostgresError) -> str | None:
    """Return the startup parameter that the pooler rejects; None for any other error."""
    match = _UNSUPPORTED.match(_message(error))
    return None if match is None else match[1]


def _message(error: asyncpg.PostgresError) -> str:
    return str(error.args[0]) if error.args else ""
