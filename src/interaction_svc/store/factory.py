"""Functions that open, check and back up a store by its URL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from interaction_svc.admission.fairness import ReadPriority
from interaction_svc.store.errors import StoreError, StoreUnavailableError, StoreURLError
from interaction_svc.store.interface import MigrationProgress, Store, StoreReport
from interaction_svc.store.options import PostgresLimits, ReplicaStore
from interaction_svc.store.postgres.dsn import FORM as _POSTGRES_FORM
from interaction_svc.store.postgres.dsn import SCHEMES as _POSTGRES_SCHEMES
from interaction_svc.store.postgres.dsn import Dsn
from interaction_svc.store.progress import LoggedProgress
from interaction_svc.store.sqlite import backup
from interaction_svc.store.sqlite.file_location import (
    check_location,
    location_warnings,
    path_problem,
)
from interaction_svc.store.sqlite.migrations import inspect
from interaction_svc.store.sqlite.rewrite.rewriter import needed_bytes
from interaction_svc.store.sqlite.store import SqliteStore
from interaction_svc.store.sqlite.write_errors import os_failure
from interaction_svc.telemetry.redaction import redact_url

if TYPE_CHECKING:
    from interaction_svc.store.postgres.store import PostgresStore

DEFAULT_URL = "sqlite:///interactions.db"

_FORM = f"write sqlite:///relative/path.db or sqlite:////absolute/path.db, or {_POSTGRES_FORM}"


def check_url(url: str) -> Path | Dsn:
    """Parse a store's URL, and return its file or database. White space around the URL is ignored.

    Raises StoreURLError, whose text says how to correct the URL.
    """
    url = url.strip()
    if url.partition(":")[0].lower() in _POSTGRES_SCHEMES:
        return Dsn.parse(url)
    scheme, found, path = url.partition(":///")
    if scheme != "sqlite" or not found:
        raise StoreURLError(f"{redact_url(url)!r} is not the URL of a store; {_FORM}")
    problem = path_problem(path)
    if problem is not None:
        raise StoreURLError(f"{redact_url(url)!r} {problem}; {_FORM}")
    return Path(path)


def name_of(url: str) -> str:
    """Return the name of a store for logs and errors, without secrets. Raises StoreURLError."""
    return _name_of(check_url(url))


def shown_url(url: str) -> str:
    """Return a store's URL for the log, without user, password and other secrets.

    Raises StoreURLError.
    """
    place = check_url(url)
    return place.shown if isinstance(place, Dsn) else url


def _name_of(place: Path | Dsn) -> str:
    return place.name if isinstance(place, Dsn) else str(place)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Context manager that adds the store's name to errors in its block."""
    try:
        yield
    except StoreError as error:
        raise type(error)(f"{name}: {error}") from error
    except OSError as error:
        made = os_failure(error) or StoreUnavailableError(error.strerror)
        raise type(made)(f"{name}: {made}") from error


async def open_store(
    url: str,
    *,
    migrate: bool = True,
    create: bool = True,
    postgres: PostgresLimits = PostgresLimits(),  # noqa: B008 immutable
    replica: ReplicaStore | None = None,
    on_migration: MigrationProgress | None = None,
    reads: ReadPriority | None = None,
) -> Store:
    """Open a store. Create it if it doesn't exist, and migrate its schema.

    With `migrate=False` a store that doesn't exist, or whose schema is not current, is an error.
    With `create=False` only a file that doesn't exist is an error. A database must exist, but may
    be empty. `on_migration` gets the progress of a migration; without it the progress is logged.
    With a `replica`, Gets and pages are read from the replica; only a database can have one. Bulk
    writes pause while `reads` run.

    Raises StoreURLError, NotAStoreError, SchemaTooNewError, StoreUnavailableError, StoreFullError.
    """
    place = check_url(url)
    with naming(_name_of(place)):
        if replica is not None:
            return await _replicated(place, postgres, replica, migrate=migrate)
        if isinstance(place, Dsn):
            return await _postgres_store().open(
                place, postgres, migrate=migrate, on_migration=on_migration or LoggedProgress()
            )
        check_location(place)
        if not (create or place.exists()):
            raise StoreUnavailableError("the file isn't there")
        return await SqliteStore.open(
            place, migrate=migrate, on_migration=on_migration or LoggedProgress(), reads=reads
        )


async def check_store(url: str) -> StoreReport:
    """Check a store's schema, and each row's columns and checksum, without changing the store.

    Rows are checked only if the schema is current. Raises the errors of open_store.
    """
    place = check_url(url)
    with naming(_name_of(place)):
        if isinstance(place, Dsn):
            versions = await _postgres_store().inspect(place)
        else:
            check_location(place)
            versions = replace(inspect(place), migration_bytes=needed_bytes(place))
    if not versions.is_current:
        return versions
    store = await open_store(url, migrate=False)
    try:
        return await store.check()
    finally:
        await store.close()


async def distribute_store(url: str) -> list[str]:
    """Migrate a PostgreSQL database with the extension Citus, and distribute its tables.

    Returns the names of the tables that were not distributed before. Raises the errors of
    open_store; StoreURLError for a file; StoreUnavailableError if the extension is missing.
    """
    place = check_url(url)
    if not isinstance(place, Dsn):
        raise StoreURLError(
            f"{place} is a file; only a PostgreSQL with the extension citus can distribute its"
            f" tables: write {_POSTGRES_FORM}"
        )
    with naming(_name_of(place)):
        return await _postgres_store().distribute(place)


def store_warnings(url: str) -> list[str]:
    """Return advice to the operator about a store's location, one sentence each.

    For a database the list is empty. Raises StoreURLError.
    """
    place = check_url(url)
    return [] if isinstance(place, Dsn) else location_warnings(place)


def backup_store(url: str, target: Path, on_progress: Callable[[int, int], None]) -> bool:
    """Copy a file store, including its API keys. The file `target` is then a store as well.

    The copy is a snapshot, without writes after its start. `on_progress` gets the number of copied
    pages and of all pages. An existing file is not replaced. A failed copy leaves no file. Returns
    whether it replaced an unfinished copy that a killed backup had left.

    Raises StoreUnavailableError, StoreFullError, StoreDamagedError, NotAStoreError,
    SchemaTooNewError; StoreURLError for a database.
    """
    place = check_url(url)
    if isinstance(place, Dsn):
        raise StoreURLError(
            f"{place.name} is a database, which has its own tools: pg_basebackup with a WAL archive"
            " copies the whole server, pg_dump this database"
        )
    with naming(_name_of(place)):
        check_location(place)
        return backup.copy(place, target, on_progress)


async def _replicated(
    place: Path | Dsn, limits: PostgresLimits, given: ReplicaStore, *, migrate: bool
) -> Store:
    followed = check_url(given.url)
    if not (isinstance(place, Dsn) and isinstance(followed, Dsn)):
        raise StoreURLError("only a database can have a replica, which must be a database too")
    _postgres_store()  # StoreURLError if the driver is missing
    from interaction_svc.store.postgres.replica.replica import Replica  # noqa: PLC0415
    from interaction_svc.store.postgres.replica.store import ReplicatedStore  # noqa: PLC0415

    replica = Replica(followed, limits, given.wait_seconds)
    return await ReplicatedStore.open_beside(place, limits, replica, migrate=migrate)


def _postgres_store() -> "type[PostgresStore]":
    """Return the PostgreSQL backend. Raises StoreURLError if its driver isn't installed."""
    try:
        from interaction_svc.store.postgres.store import PostgresStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise StoreURLError(
            "PostgreSQL needs a driver that isn't installed:"
            " pip install 'interaction-svc[postgres]'"
        ) from error
    return PostgresStore
