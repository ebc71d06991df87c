"""Connection to PostgreSQL: tries the servers of a URL in turn, and reports every failure.

asyncpg gets each parameter separately and not the user's URL, because it parses some URLs
differently from libpq, and sends unknown parameters to the server as settings.
"""

import asyncio
import getpass
import socket
import ssl
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg

from interaction_svc.store.postgres.connect_errors import explained
from interaction_svc.store.postgres.dsn import Dsn, Host
from interaction_svc.store.postgres.dsn_parameters import ParameterError
from interaction_svc.store.postgres.errors import FAILURES, NotConnectedError, is_connection_limit
from interaction_svc.store.postgres.password_file import find_password

DEFAULT_PORT = 5432
_TLS_PARAMETERS = (
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcrl",
    "sslcert",
    "sslkey",
    "sslpassword",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
_SOCKET_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


async def connect(dsn: Dsn, statement_seconds: float) -> asyncpg.Connection:
    """Connect to the first server that accepts and has the wanted attributes.

    Raises NotConnectedError if no server qualifies.
    """
    failures: list[tuple[Host, Exception]] = []
    for host, attributes in dsn.attempts():
        try:
            raw = await _connect(dsn, host, attributes, statement_seconds)
        except (*FAILURES, UnicodeError) as error:  # UnicodeError: the host is no valid DNS name
            failures.append((host, error))
        else:
            _set_keepalive(dsn, raw)
            return raw
    raise _failure(dsn, failures) from failures[-1][1]


async def _connect(
    dsn: Dsn, host: Host, attributes: str, statement_seconds: float
) -> asyncpg.Connection:
    port = host.port or DEFAULT_PORT
    user = dsn.get("user") or _own_name()
    database = dsn.get("dbname") or user
    password = dsn.get("password") or find_password(
        dsn.get("passfile"), host=host.name, port=port, database=database, user=user
    )
    given: dict[str, Any] = {
        "host": host.name,
        "port": port,
        "user": user,
        "password": password or "",  # with None asyncpg would read a password file
        "database": database,
        "timeout": dsn.connect_seconds,
        "statement_cache_size": dsn.statement_cache_size,
        "max_cached_statement_lifetime": 0,
        "server_settings": server_settings(dsn, statement_seconds),
        "target_session_attrs": attributes,
        "krbsrvname": dsn.get("krbsrvname"),
        "gsslib": dsn.get("gsslib"),
    }
    if dsn.get("sslrootcert") == "system":
        given["ssl"] = _system_tls(dsn)
        given["direct_tls"] = dsn.get("sslnegotiation") == "direct"
    raw: asyncpg.Connection = await asyncpg.connect(_tls_url(dsn), **given)
    return raw


def _own_name() -> str:
    """Return the name of this process's user, which is libpq's default."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container may run as a user ID without a name
        raise ParameterError(
            "the URL names no user, and this process's has no name: write postgresql://user@… or"
            " set PGUSER"
        ) from error


def _tls_url(dsn: Dsn) -> str:
    """Return a URL with only the TLS parameters, because asyncpg accepts them only in a URL."""
    given = {name: dsn.parameters[name] for name in _TLS_PARAMETERS if name in dsn.parameters}
    if given.get("sslrootcert") == "system":
        given = {}
    query = urlencode(given, quote_via=quote)
    return f"postgresql://?{query}" if query else "postgresql://"


def _system_tls(dsn: Dsn) -> ssl.SSLContext:
    """Return a TLS context that trusts this machine's CAs. asyncpg has no parameter for them."""
    context = ssl.create_default_context()
    certificate = dsn.get("sslcert")
    if certificate is not None:
        password = dsn.get("sslpassword") or ""
        context.load_cert_chain(certificate, dsn.get("sslkey"), lambda: password)
    context.set_alpn_protocols(["postgresql"])
    return context


def server_settings(dsn: Dsn, statement_seconds: float) -> dict[str, str]:
    """Return the server settings for the startup message of a connection."""
    settings = {"application_name": dsn.application_name, **dsn.settings}
    if dsn.get("options"):
        settings["options"] = dsn.parameters["options"]
    if dsn.statement_cache_size:
        # The server cancels statements that the client has abandoned. Poolers reject this
        # parameter.
        settings["statement_timeout"] = str(round(statement_seconds * 1000))
    return settings


def _set_keepalive(dsn: Dsn, raw: asyncpg.Connection) -> None:
    """Enable TCP keepalive, as libpq does, so that NAT does not drop an idle connection."""
    transport: asyncio.Transport = raw._transport  # type: ignore[attr-defined] # no public API
    link = transport.get_extra_info("socket")
    if link is None or link.family == socket.AF_UNIX or dsn.get("keepalives") == "0":
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, option in _SOCKET_OPTIONS.items():
        value = int(dsn.get(name) or 0)
        if value and hasattr(socket, option):  # 0 is the system's default
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _failure(dsn: Dsn, failures: list[tuple[Host, Exception]]) -> NotConnectedError:
    """Return one error for all servers. Its text lists them if their failures differ."""
    texts = [explained(error, dsn, host) for host, error in failures]
    told = dict.fromkeys(f"{host}: {text}" for (host, _), text in zip(failures, texts, strict=True))
    text = texts[0] if len(set(texts)) == 1 else "; ".join(told)
    return NotConnectedError(
        text, is_connection_limit=any(is_connection_limit(error) for _, error in failures)
    )
