"""The private attributes of aiosqlite that store/sqlite/connection.py uses.

Other tests fail as well when an update of aiosqlite changes them; these say what to do.
"""

import inspect
import threading
from pathlib import Path

import aiosqlite
from testing.paths import ROOT

from interaction_svc.store.sqlite.connection import Connection

WHAT_TO_DO = (
    f"aiosqlite {aiosqlite.__version__} differs from 0.22: read aiosqlite/core.py, adapt the uses"
    " of {} in src/interaction_svc/store/sqlite/connection.py (_open, _schedule, _run_waiting), and"
    " change the version bounds in pyproject.toml"
)


async def test_aiosqlite_has_the_private_attributes_in_use(tmp_path: Path) -> None:
    connection = await Connection.open(tmp_path / "interactions.db", create=True)
    try:
        assert isinstance(connection._thread, threading.Thread), WHAT_TO_DO.format("_thread")
        assert connection._connection is not None, WHAT_TO_DO.format("_connection")
        ran = threading.Event()
        threads = []
        # The queue of its thread takes a future, or None, and a function without arguments.
        connection._tx.put_nowait((None, lambda: threads.append(threading.current_thread())))
        connection._tx.put_nowait((None, ran.set))
        assert ran.wait(30), WHAT_TO_DO.format("_tx")
        assert threads == [connection._thread], WHAT_TO_DO.format("_tx")
    finally:
        await connection.close()
    assert getattr(connection, "_connection", "missing") is None, WHAT_TO_DO.format("_connection")


def test_no_attribute_of_connection_hides_one_of_aiosqlite() -> None:
    source = inspect.getsource(aiosqlite.Connection)
    own = {
        name
        for name in (*vars(Connection), *Connection.__init__.__code__.co_names)
        if name.startswith("_") and not name.startswith("__")
    }
    hidden = {name for name in own if f"self.{name} " in source or f"def {name}(" in source}
    assert hidden == set(), f"rename in Connection, because aiosqlite now uses them: {hidden}"


def test_only_one_module_knows_aiosqlite() -> None:
    users = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src").rglob("*.py")
        if "import aiosqlite" in path.read_text() or "from aiosqlite" in path.read_text()
    }
    assert users == {"interaction_svc/store/sqlite/connection.py"}
