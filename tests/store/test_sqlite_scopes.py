"""What another account has costs a caller as much to ask for as what nobody has.

Counted in steps of SQLite's virtual machine, which are the same on every machine.
"""

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

from interaction_svc.store import Key, Scope, open_store, row_of
from interaction_svc.store.sqlite import pages, reads, writes
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
    elsewhere = parents._replace(service_sid=new_sid("KS"))
    db = connect(tmp_path / "interactions.db")
    try:
        gets = [
            steps_of(db, partial(reads.get, db, stranger, key))
            for key in (theirs, nobody_s, nowhere)
        ]
        assert len(set(gets)) == 1, gets
        deletes = [
            steps_of(db, partial(writes.delete, db, stranger, key, NOON_US))
            for key in (theirs, nobody_s, nowhere)
        ]
        assert len(set(deletes)) == 1, deletes
        for joins in (True, False):
            one_account_s, all_accounts = (
                [
                    steps_of(db, partial(pages.page, db, scope, query(asked), joins=joins))
                    for scope, asked in lists
                ]
                for lists in (
                    [
                        (stranger, parents),
                        (stranger, new_parents()),
                        (Scope(parents.account_sid), elsewhere),
                    ],
                    [(Scope(None), elsewhere), (Scope(None), new_parents())],
                )
            )
            assert len(set(one_account_s)) == 1, one_account_s
            assert len(set(all_accounts)) == 1, all_accounts
    finally:
        db.close()
