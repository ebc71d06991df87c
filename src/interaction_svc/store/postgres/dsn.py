"""The URL of a PostgreSQL store: `postgresql://user@host:5432/database?option=value`.

What stands in it is PostgreSQL's own, libpq's parameters and server settings, but for one option
of ours: `statement_cache_size`.
"""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from interaction_svc.addresses import without_password
from interaction_svc.store.errors import StoreURLError

SCHEMES = ("postgresql", "postgres")
FORM = "postgresql://user@host:5432/database"
DEFAULT_STATEMENT_CACHE_SIZE = 256
"""More than there are forms of statements in use: each is prepared once a connection."""
_MAX_STATEMENT_CACHE_SIZE = 10_000
_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]]*)(?::(\d{1,5}))?")

ANY = "any"
PREFER_STANDBY = "prefer-standby"


class Host(NamedTuple):
    """One server that may be asked; None is libpq's default: PGHOST, PGPORT, a local socket."""

    name: str | None
    port: int | None


class Dsn(NamedTuple):
    """How to connect, and to which of several servers."""

    url: str
    """What asyncpg takes: without hosts, and without what is ours."""
    hosts: tuple[Host, ...]
    """In the order in which they are tried."""
    attributes: str | None
    """Which of them will do (`target_session_attrs`); None: PGTARGETSESSIONATTRS, or any."""
    statement_cache_size: int
    """0: nothing is prepared beyond a transaction, as a pooler in transaction mode wants it."""
    name: str
    """What to call the database in logs and errors: no user, no password."""

    @classmethod
    def parse(cls, url: str) -> "Dsn":
        """Read a URL. Raises StoreURLError, whose text says what would be right."""
        try:
            scheme, netloc, path, query, fragment = urlsplit(url)
            options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        except ValueError as error:
            raise _wrong(url, "can't be read") from error
        if scheme not in SCHEMES or not url.startswith(f"{scheme}://"):
            raise _wrong(url, "is not the URL of a store")
        if fragment:
            raise _wrong(url, "has a #; write %23 for one in a name or a password")
        credentials, at, listed = netloc.rpartition("@")
        listed = listed or options.pop("host", "")
        hosts = _hosts(url, listed, options.pop("port", ""))
        database = unquote(path.removeprefix("/")) or options.get("dbname", "")
        return cls(
            url=urlunsplit((scheme, f"{credentials}{at}", path, urlencode(_ours_out(options)), "")),
            hosts=hosts,
            attributes=options.get("target_session_attrs"),
            statement_cache_size=_statement_cache_size(options),
            name=f"PostgreSQL {listed}/{database}" if listed or database else "PostgreSQL",
        )

    def attempts(self) -> list[tuple[Host, str | None]]:
        """Give the servers to try, and which attributes each must have, in order."""
        if self.attributes != PREFER_STANDBY:
            return [(host, self.attributes) for host in self.hosts]
        return [(host, kind) for kind in ("standby", ANY) for host in self.hosts]


def _ours_out(options: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in options.items()
        if name not in ("statement_cache_size", "target_session_attrs")
    }


def _statement_cache_size(options: dict[str, str]) -> int:
    given = options.get("statement_cache_size", str(DEFAULT_STATEMENT_CACHE_SIZE))
    if not (given.isascii() and given.isdigit() and int(given[:6]) <= _MAX_STATEMENT_CACHE_SIZE):
        raise StoreURLError(
            f"statement_cache_size={given} is no size: write a number from 0, for a pooler in"
            f" transaction mode, to {_MAX_STATEMENT_CACHE_SIZE}"
        )
    return int(given)


def _hosts(url: str, listed: str, ports: str) -> tuple[Host, ...]:
    names = listed.split(",") if listed else [""]
    given = ports.split(",") if ports else [""]
    if len(given) not in (1, len(names)):
        raise _wrong(url, "has not as many ports as hosts")
    hosts = []
    for name, port in zip(names, given * len(names) if len(given) == 1 else given, strict=True):
        host = unquote(name)
        if host.startswith("/"):  # the folder of a socket
            found, own_port = host, None
        else:
            match = _HOST.fullmatch(host)
            if match is None:
                raise _wrong(url, "has a host that can't be read")
            found, own_port = match[1].strip("[]"), match[2]
        number = own_port or port
        if number and not (number.isascii() and number.isdigit() and 0 < int(number[:6]) <= 65535):
            raise _wrong(url, "has a port that is none")
        hosts.append(Host(found or None, int(number) if number else None))
    return tuple(hosts)


def _wrong(url: str, problem: str) -> StoreURLError:
    return StoreURLError(f"{without_password(url)!r} {problem}; write {FORM}")
