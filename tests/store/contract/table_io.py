"""Contract of stores: reading whole tables, and loading rows unchanged."""

import pytest
from testing.build import NOON_US, Parents, new_interaction, new_parents, new_sid

from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.units import MIB
from interaction_svc.store import Row, Store, decode, row_of
from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.tables import (
    INTERACTIONS,
    KEYS,
    OWNERS,
    TABLES,
    TOMBSTONES,
    SessionOwner,
    Table,
    TableRow,
    Tombstone,
)
from tests.store.contract.api_keys import new_key
from tests.store.contract.stores import EVERYONE, NOW_US, StoreTests, query

_UNKNOWN_FIELD = b"\xfa\x3f\x01x"


def new_records(table: Table, count: int) -> list[TableRow]:
    """Return rows in the order of their keys, several of them in one Session."""
    places = [new_parents() for _ in range(1 + count // 3)]
    made: list[TableRow] = []
    for n in range(count):
        parents = places[n % len(places)]
        if table is INTERACTIONS:
            made.append(row_of(new_interaction(parents, NOON_US + n)))
        elif table is TOMBSTONES:
            made.append(
                Tombstone(parents.session_sid, parents.account_sid, new_sid("KI"), NOON_US + n)
            )
        elif table is OWNERS:
            made.append(SessionOwner(parents.session_sid, new_sid("KS"), new_sid("AC")))
        else:
            account_sid, revoked_us = (None, None) if n % 2 else (new_sid("AC"), NOW_US + n)
            made.append(new_key(NOON_US + n, account_sid)._replace(revoked_us=revoked_us))
    return sorted(made, key=table.key_of)


async def everything(store: Store, table: Table, limit: int = 1000) -> list[TableRow]:
    records: list[TableRow] = []
    while True:
        after = table.key_of(records[-1]) if records else None
        found = await store.read(table, after=after, limit=limit, max_bytes=MIB)
        assert len(found) <= limit
        if not found:
            return records
        records += found


class TableIOTests(StoreTests):
    """Tests of reading and loading whole tables."""

    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
    async def test_a_table_reads_back_as_it_was_loaded(self, store: Store, table: Table) -> None:
        assert (await store.count(table), await everything(store, table)) == (0, [])
        records = new_records(table, 25)
        await store.load(table, records[::-1])
        await store.load(table, [])
        for limit in (1, 7, 25, 1000):
            assert await everything(store, table, limit) == records
        assert await store.count(table) == 25

    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
    async def test_loading_again_changes_nothing(self, store: Store, table: Table) -> None:
        records = new_records(table, 9)
        await store.load(table, records[:5])
        await store.load(table, records[2:])
        await store.load(table, records)
        assert await everything(store, table) == records

    async def test_a_table_read_is_bounded_in_bytes_except_for_its_first_row(
        self, store: Store
    ) -> None:
        parents = new_parents()
        rows = sorted(
            row_of(new_interaction(parents, NOON_US + n, data="x" * 10_000)) for n in range(6)
        )
        await store.record(rows)

        async def read(max_bytes: int, after: Row | None = None) -> list[TableRow]:
            key = None if after is None else INTERACTIONS.key_of(after)
            return await store.read(INTERACTIONS, after=key, limit=5, max_bytes=max_bytes)

        sizes = [len(row.frame) for row in rows]
        assert await read(1) == rows[:1]
        assert await read(sum(sizes[:2])) == rows[:2]
        assert await read(sum(sizes[1:3]) - 1, rows[0]) == rows[1:2]
        assert await read(sum(sizes)) == rows[:5]

    async def test_recorded_and_deleted_interactions_are_in_the_tables(
        self, store: Store, parents: Parents
    ) -> None:
        kept, deleted = row_of(new_interaction(parents)), row_of(new_interaction(parents))
        key = new_key()
        await store.record([kept, deleted])
        await store.delete(EVERYONE, parents.key(deleted.sid), NOW_US)
        await store.add_key(key)
        owner = SessionOwner(parents.session_sid, parents.service_sid, parents.account_sid)
        assert await everything(store, INTERACTIONS) == [kept]
        tombstone = Tombstone(parents.session_sid, parents.account_sid, deleted.sid, NOW_US)
        assert await everything(store, TOMBSTONES) == [tombstone]
        assert await everything(store, OWNERS) == [owner]
        assert await everything(store, KEYS) == [key]

    async def test_loaded_rows_are_returned_unchanged(self, store: Store, parents: Parents) -> None:
        """Also a frame of another version of the protos; its update time is kept."""
        row = row_of(new_interaction(parents))
        frame = row.frame + _UNKNOWN_FIELD
        row = row._replace(frame=frame, checksum=checksum_of(frame))
        assert row_of(decode(row.frame)).frame != row.frame
        owner = SessionOwner(parents.session_sid, parents.service_sid, parents.account_sid)
        await store.load(OWNERS, [owner])
        await store.load(INTERACTIONS, [row])
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert (await store.page(EVERYONE, query(parents))).frames == row.frame
        revoked = new_key(account_sid=parents.account_sid)._replace(revoked_us=NOW_US)
        await store.load(KEYS, [revoked])
        assert await store.keys_of(parents.account_sid) == [revoked]
        assert await store.has_keys()

    async def test_a_load_replaces_stored_rows(self, store: Store, parents: Parents) -> None:
        old = new_interaction(parents, updated_us=NOON_US + 9)
        as_it_is = row_of(new_interaction(parents, NOON_US + 1, NOON_US + 2, sid=old.sid, type=2))
        other = row_of(new_interaction(parents))
        await store.record([row_of(old), other])
        await store.load(INTERACTIONS, [as_it_is, other])
        assert await everything(store, INTERACTIONS) == sorted([as_it_is, other])
        key = new_key()
        await store.add_key(key)
        revoked = key._replace(revoked_us=NOW_US)
        await store.load(KEYS, [revoked])
        assert await store.keys() == [revoked]
        tombstone = Tombstone(parents.session_sid, parents.account_sid, new_sid("KI"), NOW_US)
        await store.load(TOMBSTONES, [tombstone])
        await store.load(TOMBSTONES, [tombstone._replace(deleted_us=NOON_US)])
        assert await everything(store, TOMBSTONES) == [tombstone._replace(deleted_us=NOON_US)]

    async def test_a_loaded_tombstone_deletes_its_interaction_permanently(
        self, store: Store, parents: Parents
    ) -> None:
        doomed, kept, new = (row_of(new_interaction(parents, NOON_US + n)) for n in range(3))
        await store.record([doomed, kept])
        tombstone = Tombstone(parents.session_sid, parents.account_sid, doomed.sid, NOW_US)
        await store.load(TOMBSTONES, [tombstone])
        assert await everything(store, INTERACTIONS) == [kept]
        await store.load(INTERACTIONS, [doomed, kept, new])
        assert await everything(store, INTERACTIONS) == sorted([kept, new])
        assert await store.record([doomed]) == [(Outcome.DELETED, None)]
        assert await everything(store, TOMBSTONES) == [tombstone]

    async def test_a_loaded_tombstone_leaves_another_account_s_interaction(
        self, store: Store, parents: Parents
    ) -> None:
        row = row_of(new_interaction(parents))
        await store.record([row])
        other = Tombstone(parents.session_sid, new_sid("AC"), row.sid, NOW_US)
        await store.load(TOMBSTONES, [other])
        await store.load(INTERACTIONS, [row])
        assert await everything(store, INTERACTIONS) == [row]
