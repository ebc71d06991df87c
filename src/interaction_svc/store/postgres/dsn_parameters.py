"""The parameters of a PostgreSQL URL, libpq's and our own, with their valid values.

libpq's documentation lists its parameters, each with its environment variable. asyncpg would send
an unknown parameter to the server as a setting, and the server would refuse the connection. So
`unknown` refuses it, and suggests the nearest name.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

DEFAULT_STATEMENT_CACHE_SIZE = 256
"""More than the number of statement texts, so that each is prepared once per connection."""
_MAX_STATEMENT_CACHE_SIZE = 10_000

VERIFYING_MODES = ("verify-ca", "verify-full")
ENCRYPTING_MODES = ("require", *VERIFYING_MODES)
SSL_MODES = ("disable", "allow", "prefer", *ENCRYPTING_MODES)
SECRET = frozenset({"password", "sslpassword", "options"})
"""The parameters whose values are never shown. `options` may hold any setting, even a secret."""


class ParameterError(OSError):
    """The value of a parameter, or its default, is unusable. The text has the reason."""


class Parameter(NamedTuple):
    """One parameter: its environment variable in libpq, and its valid values."""

    variable: str = ""
    takes: Callable[[str], bool] = lambda _: True
    instead: str = ""
    """The advice for a refused value. It completes a sentence that begins with the name."""


def _one_of(*values: str, variable: str = "", because: str = "") -> Parameter:
    listed = f"{', '.join(values[:-1])} or {values[-1]}" if len(values) > 1 else values[0]
    return Parameter(variable, values.__contains__, f"write {listed}{because and f': {because}'}")


def _number(least: int, most: int, *, variable: str = "", of: str = "") -> Parameter:
    def takes(value: str) -> bool:
        return value.isascii() and value.isdigit() and least <= int(value[:9]) <= most

    return Parameter(variable, takes, f"write a number from {least} to {most}{of}")


def _refused(instead: str, variable: str = "") -> Parameter:
    return Parameter(variable, lambda _: False, instead)


_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_NO_SERVICE = "service files aren't read: write what the service's section says into the URL"
_NO_KEEPING_OF_KEYS = "the driver only takes a password"
_NO_OAUTH = "the driver doesn't know OAuth"

PARAMETERS: Mapping[str, Parameter] = {
    # The servers, the database and the user.
    "host": Parameter("PGHOST"),
    "hostaddr": Parameter("PGHOSTADDR"),
    "port": Parameter("PGPORT"),
    "dbname": Parameter("PGDATABASE"),
    "database": Parameter(),  # its name in asyncpg
    "user": Parameter("PGUSER"),
    "password": Parameter("PGPASSWORD"),
    "passfile": Parameter("PGPASSFILE"),
    "connect_timeout": _number(
        1, 600, variable="PGCONNECT_TIMEOUT", of=" seconds; an unlimited wait isn't possible"
    ),
    "target_session_attrs": _one_of(
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby",
        variable="PGTARGETSESSIONATTRS",
    ),
    "load_balance_hosts": _one_of("disable", "random", variable="PGLOADBALANCEHOSTS"),
    # TLS.
    "sslmode": _one_of(*SSL_MODES, variable="PGSSLMODE"),
    "ssl": _one_of("true", because="as JDBC has it; libpq's own name is sslmode"),
    "requiressl": _one_of("0", "1", variable="PGREQUIRESSL", because="the older form of sslmode"),
    "sslnegotiation": _one_of("postgres", "direct", variable="PGSSLNEGOTIATION"),
    "sslrootcert": Parameter("PGSSLROOTCERT"),
    "sslcrl": Parameter("PGSSLCRL"),
    "sslcert": Parameter("PGSSLCERT"),
    "sslkey": Parameter("PGSSLKEY"),
    "sslpassword": Parameter(),
    "ssl_min_protocol_version": _one_of(*_TLS_VERSIONS, variable="PGSSLMINPROTOCOLVERSION"),
    "ssl_max_protocol_version": _one_of(*_TLS_VERSIONS, variable="PGSSLMAXPROTOCOLVERSION"),
    "sslsni": _one_of("1", variable="PGSSLSNI", because="the driver always sends the host's name"),
    "sslcertmode": _one_of(
        "allow", variable="PGSSLCERTMODE", because="the driver sends sslcert if it is asked for"
    ),
    "sslcompression": _one_of("0", "1", variable="PGSSLCOMPRESSION"),  # libpq ignores it too
    "sslcrldir": _refused("write one file, sslcrl=", "PGSSLCRLDIR"),
    "sslkeylogfile": _refused("keys of TLS are written to no file"),
    # Authentication.
    "channel_binding": _one_of(
        "disable", "prefer", variable="PGCHANNELBINDING",
        because="the driver can't bind the password to TLS; sslmode=verify-full makes sure of the"
        " server by its certificate",
    ),
    "require_auth": _refused(
        "the driver can't choose; pg_hba.conf on the server can", "PGREQUIREAUTH"
    ),
    "requirepeer": _refused("the driver can't ask who listens at a socket", "PGREQUIREPEER"),
    "gssencmode": _one_of(
        "disable", "prefer", variable="PGGSSENCMODE",
        because="the driver can't encrypt with GSSAPI, only with TLS",
    ),
    "gssdelegation": _one_of(
        "0", variable="PGGSSDELEGATION", because="the driver can't hand on credentials"
    ),
    "krbsrvname": Parameter("PGKRBSRVNAME"),
    "gsslib": _one_of("gssapi", variable="PGGSSLIB"),
    "scram_client_key": _refused(_NO_KEEPING_OF_KEYS),
    "scram_server_key": _refused(_NO_KEEPING_OF_KEYS),
    "oauth_issuer": _refused(_NO_OAUTH),
    "oauth_client_id": _refused(_NO_OAUTH),
    "oauth_client_secret": _refused(_NO_OAUTH),
    "oauth_scope": _refused(_NO_OAUTH),
    "service": _refused(_NO_SERVICE, "PGSERVICE"),
    "servicefile": _refused(_NO_SERVICE),
    # The connection.
    "keepalives": _one_of("0", "1"),
    "keepalives_idle": _number(0, 32_767, of=" seconds"),
    "keepalives_interval": _number(0, 32_767, of=" seconds"),
    "keepalives_count": _number(0, 127),
    "tcp_user_timeout": _number(0, 2**31 - 1, of=" milliseconds"),
    "min_protocol_version": _one_of(
        "3.0", variable="PGMINPROTOCOLVERSION", because="the driver speaks no newer one"
    ),
    "max_protocol_version": _one_of("3.0", "3.2", "latest", variable="PGMAXPROTOCOLVERSION"),
    "replication": _one_of("0", "off", "no", "false", because="records need a usual connection"),
    # The session.
    "application_name": Parameter("PGAPPNAME"),
    "fallback_application_name": Parameter(),
    "client_encoding": Parameter("PGCLIENTENCODING"),  # any: the driver uses UTF-8
    "options": Parameter("PGOPTIONS"),
    "statement_timeout": _refused("set postgres_statement_seconds"),
    # Our own.
    "statement_cache_size": _number(
        0, _MAX_STATEMENT_CACHE_SIZE, of="; 0 is for a pooler in transaction mode"
    ),
}  # fmt: skip

SETTINGS = frozenset({
    "search_path", "role", "timezone", "synchronous_commit", "lock_timeout",
    "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout",
    "work_mem", "temp_buffers", "default_tablespace", "plan_cache_mode", "jit",
    "random_page_cost", "effective_io_concurrency", "tcp_keepalives_idle",
    "tcp_keepalives_interval", "tcp_keepalives_count",
})  # fmt: skip
"""Server settings that may be written as parameters. Others must be in `options`."""

_NAME = re.compile(r"[A-Za-z_][\w.]{0,62}", re.ASCII)


def is_setting(name: str) -> bool:
    """Return whether this is a server setting. Names with a dot are settings of extensions."""
    return name.lower() in SETTINGS or ("." in name and _NAME.fullmatch(name) is not None)


def unknown(name: str) -> str:
    """Return the error text for a name that is neither a parameter nor a setting."""
    if _NAME.fullmatch(name) is None:
        return "has a parameter whose name can't be read"
    near = difflib.get_close_matches(name.lower(), [*PARAMETERS, *SETTINGS], n=1)
    hint = f": did you mean {near[0]}?" if near else ""
    return (
        f"has {name}, which is no parameter of libpq{hint}; a setting of the server is written"
        " options=-c%20name%3Dvalue"
    )
