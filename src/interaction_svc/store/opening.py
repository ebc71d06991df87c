"""Stores by their URLs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from interaction_svc.addresses import without_password
from interaction_svc.store.errors import StoreError, StoreUnavailableError, StoreURLError
from interaction_svc.store.interface import Store, StoreReport
from interaction_svc.store.sqlite import backup
from interaction_svc.store.sqlite.migrations import inspect
from interaction_svc.store.sqlite.store import SqliteStore

DEFAULT_URL = "sqlite:///interactions.db"

_FORM = "write sqlite:///relative/path.db or sqlite:////absolute/path.db"


def check_url(url: str) -> Path:
    """Give the file of a store's URL. Raises StoreURLError, whose text says what would be right."""
    scheme, found, path = url.partition(":///")
    if scheme != "sqlite" or not found:
        raise StoreURLError(f"{without_password(url)!r} is not the URL of a store; {_FORM}")
    if "?" in path:
        raise StoreURLError(f"{without_password(url)!r} has a ?, but there are no options; {_FORM}")
    if not path or path.endswith("/") or path == ":memory:":
        raise StoreURLError(f"{without_password(url)!r} names no file; {_FORM}")
    return Path(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name into the errors of what is done with it."""
    try:
        yield
    except StoreError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise StoreUnavailableError(f"{path}: {error.strerror}") from error


async def open_store(url: str, *, migrate: bool = True, create: bool = True) -> Store:
    """Open the store, make it if it isn't there, and bring its schema up to date.

    With `migrate=False` a store that isn't there or isn't up to date is an error, with
    `create=False` only one that isn't there. Raises StoreURLError, NotAStoreError,
    SchemaTooNewError, StoreUnavailableError, StoreFullError.
    """
    path = check_url(url)
    with _naming(path):
        if not (create or path.exists()):
            raise StoreUnavailableError("the file isn't there")
        return await SqliteStore.open(path, migrate=migrate)


async def check_store(url: str) -> StoreReport:
    """Report on a store without changing it: its schema, and each row's columns.

    Rows are checked only if the schema is up to date. Raises what open_store raises.
    """
    path = check_url(url)
    with _naming(path):
        versions = inspect(path)
    if versions.schema_version != versions.known_version:
        return versions
    store = await open_store(url, migrate=False)
    try:
        return await store.check()
    finally:
        await store.close()


def backup_store(url: str, target: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy a store into a file, which may then be served like any other: keys and all.

    The copy is the store at one moment, whatever is written meanwhile. `on_progress` gets how many
    pages have been copied, and of how many. A file that is there already is not replaced, and a
    copy that fails leaves none. Raises StoreUnavailableError, StoreFullError, StoreDamagedError,
    NotAStoreError, SchemaTooNewError.
    """
    path = check_url(url)
    with _naming(path):
        backup.copy(path, target, on_progress)
