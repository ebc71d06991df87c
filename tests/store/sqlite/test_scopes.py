"""Rows of another account add no cost, and requests for them cost as much as for missing rows.

Counted in steps of SQLite's virtual machine, which are the same on every machine.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from testing.build import NOON_US, Parents, new_interaction, new_parents, new_sid

from interaction_svc.domain.interactions import Filter, InteractionKey, Scope
from interaction_svc.domain.paging import Cursor
from interaction_svc.store import Row, row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite import page_reads, reads, writes
from interaction_svc.store.sqlite.connection import connect
from tests.store.contract.stores import position_in, query
from tests.store.sqlite import files


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


async def test_requests_for_another_account_s_rows_take_as_many_steps_as_for_missing_ones(
    tmp_path: Path,
) -> None:
    parents = new_parents()
    rows = [row_of(new_interaction(parents, NOON_US + number)) for number in range(1000)]
    store = await open_store(files.url(tmp_path))
    await store.record(rows)
    await store.close()
    stranger = Scope(new_sid("AC"))
    theirs = parents.key(rows[500].sid)
    nobody_s = parents.key(new_sid("KI"))
    nowhere = InteractionKey(new_sid("KS"), new_sid("KC"), new_sid("KI"))
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
        for concat in (True, False):
            one_account_s, all_accounts = (
                [
                    steps_of(db, partial(page_reads.page, db, scope, query(asked), concat=concat))
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


_AT_THE_END = 3


async def test_rows_of_another_account_in_the_session_cost_no_step(tmp_path: Path) -> None:
    """The other account has 50,000 rows of 1,000 Services in the same Session."""
    parents = new_parents()
    rows = [row_of(new_interaction(parents, NOON_US + 10 * n)) for n in range(1000)]
    store = await open_store(files.url(tmp_path))
    await store.record(rows)
    with closing(connect(tmp_path / "interactions.db")) as db:
        before = steps_of_owner(db, parents, rows)
    stranger = new_sid("AC")
    services = [parents.service_sid, *(new_sid("KS") for _ in range(1000))]
    for start in range(0, 50_000, 1000):
        await store.record(
            [
                row._replace(
                    account_sid=stranger,
                    service_sid=services[(start + n) % len(services)],
                    created_us=row.created_us + start // 1000,
                    sid=row.sid if start == 0 else new_sid("KI"),
                )
                for n, row in enumerate(rows)
            ]
        )
    with closing(connect(tmp_path / "interactions.db")) as db:
        after = steps_of_owner(db, parents, rows)
        # The scan stops at the first row of the next account.
        assert all(now <= then + _AT_THE_END for now, then in zip(after, before, strict=True))
        theirs = Scope(stranger)
        page = page_reads.page(db, theirs, query(parents), concat=True)
        assert page.rows == 10
    await store.close()


def steps_of_owner(db: sqlite3.Connection, parents: Parents, rows: list[Row]) -> list[int]:
    """Return the steps of each operation of the owner on the Session."""
    own = Scope(parents.account_sid)
    key = parents.key(rows[500].sid)
    asked = [
        query(parents, limit=50, descending=descending, filter=wanted, edge=edge)
        for descending in (False, True)
        for wanted in (Filter(), Filter(type=rows[0].type), Filter(created_from_us=NOON_US + 50))
        for edge in (
            None,
            Cursor(position_in(own, rows[500])),
            Cursor(position_in(own, rows[9]), True),
        )
    ]
    works: list[Callable[[], object]] = [partial(reads.get, db, own, key)]
    for concat in (False, True):
        works += [partial(page_reads.page, db, own, each, concat=concat) for each in asked]
    writing: list[Callable[[], object]] = [
        partial(writes.record, db, [rows[0], row_of(new_interaction(parents))]),
        partial(writes.delete, db, own, key, NOON_US),
    ]
    counted = [steps_of(db, work) for work in works]
    db.execute("BEGIN IMMEDIATE")
    counted += [steps_of(db, work) for work in writing]
    db.execute("ROLLBACK")
    return counted
