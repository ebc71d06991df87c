"""`copy` into the target of an earlier copy: it continues, updates it, or refuses other data."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from testing.build import Parents, new_interaction, new_parents, new_sid

from interaction_svc.store import Row, Store, row_of
from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.tables import (
    INTERACTIONS,
    TABLES,
    TOMBSTONES,
    Table,
    Tombstone,
)
from interaction_svc.transfer.copier import ForeignDataError, NamedStore, StoreCopier
from tests.store.contract.api_keys import new_key
from tests.store.contract.stores import NOW_US
from tests.store.contract.table_io import everything
from tests.store.sqlite.files import url
from tests.transfer.copies import (
    Opened,
    changed,
    contents,
    copied_here,
    everything_in,
    fill,
    nobody,
    target,
)

__all__ = ["target"]


async def test_a_second_copy_adds_what_the_source_has_recorded_since(
    tmp_path: Path, target: str
) -> None:
    source = url(tmp_path)
    rows = await fill(source, 300)
    await copied_here(source, target)
    expected = await changed(source, rows)
    async with Opened(source) as here, Opened(target) as there:
        copying = StoreCopier(NamedStore("source", here), NamedStore("target", there), nobody)
        assert [(await copying.verify(table)).ok for table in TABLES] == [False] * 4
    assert await copied_here(source, target) == expected
    assert await contents(target) == await contents(source)


async def test_an_interrupted_copy_continues(tmp_path: Path, target: str) -> None:
    source = url(tmp_path)
    rows = await fill(source, 9_000)
    steps = []

    def break_off(doing: str, table: Table, done: int) -> None:
        steps.append((doing, table, done))
        if table is INTERACTIONS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await copied_here(source, target, break_off)
    assert len(await everything_in(target, INTERACTIONS)) == steps[-1][2] == 2_000
    # The source has changed since, both before and after the place of the interruption.
    expected = await changed(source, sorted(rows[5:]))
    expected["interactions"] += 9_000 - 5 - 2_000
    async with Opened(source) as store:
        expected["api_keys"] = len(await store.keys())  # no key had been copied
    assert await copied_here(source, target) == expected
    assert await contents(target) == await contents(source)


@pytest.mark.parametrize("there", [slice(0, None, 3), slice(5_000, 7_000), slice(8_994, None)])
async def test_gaps_of_any_size_are_copied(tmp_path: Path, target: str, there: slice) -> None:
    source = url(tmp_path)
    rows = sorted((await fill(source, 9_000))[5:])
    async with Opened(source) as here, Opened(target) as store:
        for start in range(0, 9_000, 1_000):
            of_these = set(rows[start : start + 1_000]) & set(rows[there])
            await store.load(INTERACTIONS, sorted(of_these))
        copying = StoreCopier(NamedStore("source", here), NamedStore("target", store), nobody)
        verified = await copying.verify(INTERACTIONS)
    assert (verified.source.count, verified.target.count) == (len(rows), len(rows[there]))
    missing = set(rows) - set(rows[there])
    assert verified.first_difference == INTERACTIONS.key_of(min(missing))
    assert (await copied_here(source, target))["interactions"] == len(missing)
    assert await everything_in(target, INTERACTIONS) == rows


def another(row: Row) -> Row:
    return row_of(new_interaction(Parents(row.account_sid, row.service_sid, row.session_sid)))


async def revoke_all(store: Store, _: Row) -> None:
    for key in await store.keys():
        await store.revoke_key(key.sid, NOW_US - 1)


async def delete_later(store: Store, _: Row) -> None:
    for one in await everything(store, TOMBSTONES):
        session_sid, account_sid, sid = TOMBSTONES.key_of(one)
        await store.load(TOMBSTONES, [Tombstone(session_sid, account_sid, sid, NOW_US + 1)])


OWN: dict[str, tuple[str, Callable[[Store, Row], Awaitable[object]]]] = {
    "an Interaction": ("interactions", lambda store, row: store.record([another(row)])),
    "a Session": (
        "session_owners",
        lambda store, row: store.record([row_of(new_interaction(new_parents()))]),
    ),
    "a newer Interaction": (
        "interactions",
        lambda store, row: store.load(
            INTERACTIONS,
            [
                row._replace(
                    updated_us=row.updated_us + 1, frame=b"newer", checksum=checksum_of(b"newer")
                )
            ],
        ),
    ),
    "an Interaction of another": (
        "interactions",
        lambda store, row: store.load(INTERACTIONS, [row._replace(account_sid=new_sid("AC"))]),
    ),
    "a deletion": (
        "tombstones",
        lambda store, row: store.load(
            TOMBSTONES, [Tombstone(row.session_sid, row.account_sid, row.sid, NOW_US)]
        ),
    ),
    "a deletion of another time": ("tombstones", delete_later),
    "a key": ("api_keys", lambda store, row: store.add_key(new_key())),
    "a revocation": ("api_keys", revoke_all),
}


@pytest.mark.parametrize("own", OWN)
async def test_a_target_with_foreign_rows_is_refused(tmp_path: Path, target: str, own: str) -> None:
    source = url(tmp_path)
    rows = await fill(source, 60)
    await copied_here(source, target)
    table, make = OWN[own]
    async with Opened(target) as store:
        await make(store, rows[30])
    await changed(source, rows * 2)
    before = await contents(target)
    with pytest.raises(ForeignDataError, match=f"^target has data of its own: in {table}, "):
        await copied_here(source, target)
    assert await contents(target) == before
