"""What another account has costs a caller as much to ask for as what nobody has.

Counted in steps of SQLite's virtual machine, which are the same on every machine.
"""

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

from interaction_svc.store import Key, Scope, open_store, row_of
from interaction_svc.store.sqlite import reads, writes
from interaction_svc.store.sqlite.connection import connect
from tests.build import NOON_US, new_interaction, new_parents, new_sid
from tests.store import files
from tests.store.opened import query


def steps_of(db: sqlite3.Connection, work: Callable[[], object]) -> int:
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    db.set_progress_handler(count, 1)
    try:
        work()
    finally:
        db.set_progress_handler(None, 0)
    return steps


async def test_as_many_steps_for_another_account_s_as_for_nothing(tmp_path: Path) -> None:
    parents = new_parents()
    rows = [row_of(new_interaction(parents, NOON_US + number)) for number in range(1000)]
    store = await open_store(files.url(tmp_path))
    await store.record(rows)
    await store.close()
    stranger = Scope(new_sid("AC"))
    theirs = parents.key(rows[500].sid)
    nobody_s = parents.key(new_sid("KI"))
    nowhere = Key(new_sid("KS"), new_sid("KC"), new_sid("KI"))
    db = connect(tmp_path / "interactions.db")
    try:
        gets = [
            steps_of(db, partial(reads.get, db, stranger, key))
            for key in (theirs, nobody_s, nowhere)
        ]
        assert max(gets) <= 2 * min(gets)
        deletes = [
            steps_of(db, partial(writes.delete, db, stranger, key, NOON_US))
            for key in (theirs, nobody_s, nowhere)
        ]
        assert max(deletes) <= 2 * min(deletes)
        pages = [
            steps_of(db, partial(reads.page, db, scope, query(asked), joins=True))
            for scope, asked in (
                (stranger, parents),
                (stranger, new_parents()),
                (Scope(parents.account_sid), parents._replace(service_sid=new_sid("KS"))),
                (Scope(None), parents._replace(service_sid=new_sid("KS"))),
            )
        ]
        assert max(pages) <= 2 * min(pages)
    finally:
        db.close()
