"""The URL of a PostgreSQL store: `postgresql://user@host:5432/database?option=value`.

The parser follows libpq. Missing parameters come from libpq's environment variables. Errors contain
no value of the URL, and no name that may be part of a password.
"""

import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import NamedTuple, Self
from urllib.parse import quote, unquote

from interaction_svc.store.errors import StoreURLError
from interaction_svc.store.postgres.dsn_parameters import (
    DEFAULT_STATEMENT_CACHE_SIZE,
    ENCRYPTING_MODES,
    PARAMETERS,
    SECRET,
    is_setting,
    unknown,
)

SCHEMES = ("postgresql", "postgres")
FORM = "postgresql://user@host:5432/database"
APPLICATION_NAME = "interaction-svc"
CONNECT_SECONDS = 5
"""The default of connect_timeout: the time limit for connecting to each server of a URL."""

_URL = re.compile(
    r"(?P<scheme>postgres(?:ql)?)://(?P<authority>[^/?]*)(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?",
    re.IGNORECASE,
)
_HOST = re.compile(r"(?P<name>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")
_NAME = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

ANY = "any"
PREFER_STANDBY = "prefer-standby"


class Host(NamedTuple):
    """A server of the URL. None stands for a default: the local socket, or port 5432."""

    name: str | None
    port: int | None

    def __str__(self) -> str:
        name = self.name or "the local socket"
        if self.port is None:
            return name
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


@dataclass(frozen=True)
class Dsn:
    """The parameters of a connection, and its servers. The repr has neither user nor password."""

    hosts: tuple[Host, ...]
    """The servers, in the order in which they are tried."""
    name: str
    """The name of the database in logs and errors, without user and password."""
    shown: str
    """The URL for the log, without secrets."""
    parameters: Mapping[str, str] = field(repr=False)
    """The parameters of the URL and the environment, by libpq's names."""
    settings: Mapping[str, str] = field(repr=False)
    """The server settings for our connections."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL. Raises StoreURLError, whose text says how to correct it."""
        in_url, settings = _split(url.strip())
        given = _in_one_form({**_environment(in_url), **in_url})
        hosts = _hosts(given)
        listed = ",".join(map(_shown_host, hosts)) if hosts != (Host(None, None),) else ""
        database = given.get("dbname", "")
        return cls(
            hosts=hosts,
            name=f"PostgreSQL {listed}/{database}" if listed or database else "PostgreSQL",
            shown=_shown(listed, database, in_url),
            parameters=given,
            settings=settings,
        )

    def get(self, name: str) -> str | None:
        """Return the value of a parameter; None if it isn't given."""
        return self.parameters.get(name)

    @property
    def attributes(self) -> str:
        """Return the attributes that a server must have (`target_session_attrs`)."""
        return self.parameters.get("target_session_attrs", ANY)

    @property
    def statement_cache_size(self) -> int:
        """Return the maximum number of prepared statements; 0 for a pooler in transaction mode."""
        return int(self.parameters.get("statement_cache_size", DEFAULT_STATEMENT_CACHE_SIZE))

    @property
    def connect_seconds(self) -> int:
        """Return the time limit for connecting to each server, in seconds."""
        return int(self.parameters.get("connect_timeout", CONNECT_SECONDS))

    @property
    def application_name(self) -> str:
        """Return the application_name of our connections."""
        given = self.parameters
        name = given.get("application_name") or given.get("fallback_application_name")
        return name or APPLICATION_NAME

    @property
    def sslmode(self) -> str | None:
        """Return the TLS mode. None is libpq's default: `prefer` over TCP, no TLS over a socket."""
        return self.parameters.get("sslmode")

    def attempts(self) -> list[tuple[Host, str]]:
        """Return the servers to try, in order, and the attributes that each must have."""
        hosts = list(self.hosts)
        if self.get("load_balance_hosts") == "random":
            random.shuffle(hosts)
        if self.attributes != PREFER_STANDBY:
            return [(host, self.attributes) for host in hosts]
        return [(host, kind) for kind in ("standby", ANY) for host in hosts]


def _split(url: str) -> tuple[dict[str, str], dict[str, str]]:
    """Split a URL into libpq's parameters and the server settings."""
    found = _URL.fullmatch(url)
    if found is None:
        raise _wrong("is not the URL of a store")
    if _CONTROL.search(url):
        raise _wrong("has a line break or another control character")
    if "#" in url:
        raise _wrong("has a #; write %23 for one in a name or a password")
    if _BAD_PERCENT.search(url):
        raise _wrong("has a % without two hex digits after it; write %25 for one in a password")
    path, query = found["path"] or "", found["query"] or ""
    credentials, _, listed = found["authority"].rpartition("@")
    if "@" in path:
        raise _wrong("has an @ behind a /; write %2F for a / in a password, %40 for an @ in a name")
    user, _, password = credentials.partition(":")
    given = {
        "user": _decoded(user),
        "password": _decoded(password),
        "dbname": _decoded(path),
        **_authority_hosts(listed),
    }
    settings = {}
    for name, value in _pairs(query):
        if is_setting(name):
            settings[name] = value
        else:
            given["dbname" if name == "database" else name] = value
    return {name: value for name, value in given.items() if value}, settings


def _authority_hosts(listed: str) -> dict[str, str]:
    names, ports = [], []
    for one in listed.split(","):
        match = _HOST.fullmatch(one)
        if match is None:
            raise _wrong("has a host that can't be read")
        names.append(_decoded(match["name"].strip("[]")))
        ports.append(_decoded(match["port"] or ""))
    return {"host": ",".join(names), "port": ",".join(ports) if any(ports) else ""}


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    # A "name" may be the rest of a password with an unencoded & or ?, if it follows a secret
    # parameter or the query has an @. Such names are not shown.
    hides_names = "@" in query
    for pair in query.split("&") if query else ():
        encoded, equals, value = pair.partition("=")
        name = _decoded(encoded)
        if not equals:
            raise _wrong("has an option that is not name=value; write %26 for a & in a password")
        if name not in PARAMETERS and not is_setting(name):
            raise _wrong(
                "has an unknown parameter; write %26 for a & in a password"
                if hides_names
                else unknown(name)
            )
        hides_names = hides_names or name in SECRET
        decoded = _decoded(value)
        _check(name, decoded)
        yield name, decoded


def _decoded(text: str) -> str:
    """Decode %XX. A + stays a +, as in libpq."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise _wrong("has bytes that are not UTF-8") from error


def _environment(in_url: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, parameter in PARAMETERS.items():
        value = os.environ.get(parameter.variable, "") if parameter.variable else ""
        if value and name not in in_url:
            _check(name, value, parameter.variable)
            found[name] = value
    return found


def _check(name: str, value: str, variable: str = "") -> None:
    parameter = PARAMETERS.get(name)
    if parameter is not None and value and not parameter.takes(value):
        raise StoreURLError(f"{variable or name}: {parameter.instead}")


def _in_one_form(given: dict[str, str]) -> dict[str, str]:
    """Replace older names of sslmode, and check parameters that depend on each other."""
    older = given.pop("requiressl", None)
    if given.pop("ssl", None) or older == "1":
        given.setdefault("sslmode", "require")
    if given.get("sslrootcert") == "system" and given.setdefault("sslmode", "verify-full") != (
        "verify-full"
    ):
        raise StoreURLError("sslrootcert=system: write sslmode=verify-full as well")
    if given.get("sslnegotiation") == "direct" and given.get("sslmode") not in ENCRYPTING_MODES:
        raise StoreURLError(f"sslnegotiation=direct: write sslmode={' or '.join(ENCRYPTING_MODES)}")
    return given


def _hosts(given: dict[str, str]) -> tuple[Host, ...]:
    address = given.get("hostaddr")
    if address and given.get("host"):
        raise StoreURLError(
            "hostaddr, or PGHOSTADDR: the driver can't connect to an address and check another"
            " name: write one of host and hostaddr"
        )
    names = (address or given.get("host", "")).split(",")
    ports = given.get("port", "").split(",")
    if len(ports) not in (1, len(names)):
        raise _wrong("needs as many ports as hosts, including those of PGHOST and PGPORT")
    if len(ports) == 1:
        ports *= len(names)
    return tuple(Host(_name(name), _port(port)) for name, port in zip(names, ports, strict=True))


def _name(text: str) -> str | None:
    if not text or text.startswith("/") or _NAME.fullmatch(text):  # /… is the folder of a socket
        return text or None
    try:
        IPv6Address(text)
    except ValueError:
        raise _wrong("has a host that can't be read") from None
    return text


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= 65535):
        raise _wrong("has a port that is not a number from 1 to 65535")
    return int(text)


def _shown_host(host: Host) -> str:
    return str(host) if host.name else f":{host.port}" if host.port else ""


def _shown(listed: str, database: str, in_url: Mapping[str, str]) -> str:
    credentials = "***@" if "user" in in_url or "password" in in_url else ""
    options = "&".join(
        f"{name}={'***' if name in SECRET else quote(value, safe='/:,')}"
        for name, value in in_url.items()
        if name not in ("host", "port", "dbname", "user", "password")
    )
    return f"postgresql://{credentials}{quote(listed, safe='/:,[]')}/{quote(database)}" + (
        f"?{options}" if options else ""
    )


def _wrong(problem: str) -> StoreURLError:
    return StoreURLError(f"postgresql://… {problem}; write {FORM}")
