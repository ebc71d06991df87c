"""Contract of stores: reads."""

import random

import pytest
from testing.build import NOON_US, Parents, new_interaction, new_leg, new_sid

from interaction_svc.domain.interactions import Filter, Outcome, Scope
from interaction_svc.domain.paging import Cursor
from interaction_svc.domain.units import MIB
from interaction_svc.store import (
    AmbiguousAccountError,
    DamagedRowError,
    ScanPosition,
    Store,
    row_of,
)
from interaction_svc.store.tables import INTERACTIONS, OWNERS, SessionOwner
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.contract.stores import (
    EVERYONE,
    NOW_US,
    StoreTests,
    position,
    position_in,
    query,
    sids,
)


class ReadTests(StoreTests):
    """Tests of get, page and scan."""

    async def test_get_returns_the_recorded_bytes(self, store: Store, parents: Parents) -> None:
        row = row_of(new_interaction(parents))
        await store.record([row])
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame
        assert await store.get(Scope(parents.account_sid), parents.key(row.sid)) == row.frame

    async def test_get_finds_nothing_outside_its_scope_and_parents(
        self, store: Store, parents: Parents
    ) -> None:
        row = row_of(new_interaction(parents))
        await store.record([row])
        key = parents.key(row.sid)
        assert await store.get(Scope(new_sid("AC")), key) is None
        for scope in (EVERYONE, Scope(parents.account_sid)):
            for field, prefix in (("service_sid", "KS"), ("session_sid", "KC"), ("sid", "KI")):
                elsewhere = key._replace(**{field: new_sid(prefix)})
                assert await store.get(scope, elsewhere) is None
            assert await store.get(scope, key) == row.frame

    async def test_the_same_sids_in_two_accounts_are_two_interactions(
        self, store: Store, parents: Parents
    ) -> None:
        other = parents._replace(account_sid=new_sid("AC"))
        mine = row_of(new_interaction(parents))
        theirs = row_of(new_interaction(other, sid=mine.sid))
        key = parents.key(mine.sid)
        recorded = await store.record([mine, theirs])
        assert [outcome for outcome, _ in recorded] == [Outcome.CREATED] * 2
        assert await store.get(Scope(parents.account_sid), key) == mine.frame
        assert await store.get(Scope(other.account_sid), key) == theirs.frame
        with pytest.raises(AmbiguousAccountError):
            await store.get(EVERYONE, key)
        await store.delete(Scope(other.account_sid), key, NOW_US)
        assert await store.get(EVERYONE, key) == mine.frame

    @pytest.mark.parametrize("service", [True, False])
    async def test_one_account_alone_is_not_ambiguous(
        self, store: Store, parents: Parents, service: bool
    ) -> None:
        """The other account has the SID under another Service, or another SID."""
        row = row_of(new_interaction(parents))
        other = parents._replace(account_sid=new_sid("AC"))
        if service:
            elsewhere = other._replace(service_sid=new_sid("KS"))
            theirs = row_of(new_interaction(elsewhere, sid=row.sid))
        else:
            theirs = row_of(new_interaction(other))
        await store.record([row, theirs])
        assert await store.get(EVERYONE, parents.key(row.sid)) == row.frame

    async def test_a_damaged_row_raises_an_error_that_names_it(
        self, store: Store, parents: Parents
    ) -> None:
        good, row = (row_of(new_interaction(parents, NOON_US + n)) for n in range(2))
        damaged = row._replace(frame=row.frame.replace(b"hello", b"hullo"))
        owner = SessionOwner(parents.session_sid, parents.service_sid, parents.account_sid)
        await store.load(OWNERS, [owner])
        await store.load(INTERACTIONS, [good, damaged])
        for scope in (EVERYONE, Scope(parents.account_sid)):
            with pytest.raises(DamagedRowError, match=row.sid):
                await store.get(scope, parents.key(row.sid))
            assert await store.get(scope, parents.key(good.sid)) == good.frame
        with pytest.raises(DamagedRowError, match=row.sid):
            await store.scan(after=None, limit=10, max_bytes=MIB)
        with pytest.raises(DamagedRowError, match=row.sid):
            await store.read(INTERACTIONS, after=None, limit=10, max_bytes=MIB)
        report = await store.check()
        assert (report.rows, report.bad_rows) == (2, 1)
        assert report.some_bad == ((parents.session_sid, parents.account_sid, row.sid),)
        assert await store.record([row]) == [(Outcome.UPDATED, row.frame)]
        assert (await store.check()).ok

    async def test_a_page_is_ordered_by_creation_and_sid(
        self, store: Store, parents: Parents
    ) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n // 3)) for n in range(12)]
        random.Random(1).shuffle(rows)
        await store.record(rows)
        rows.sort(key=position)
        page = await store.page(EVERYONE, query(parents, limit=20))
        assert page == (
            b"".join(row.frame for row in rows), 12, position(rows[0]), position(rows[-1]), False
        )  # fmt: skip
        page = await store.page(EVERYONE, query(parents, limit=20, descending=True))
        assert page.frames == b"".join(row.frame for row in reversed(rows))

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("backward", [False, True])
    @pytest.mark.parametrize("of_all", [False, True])
    async def test_a_page_begins_at_its_cursor_even_if_that_row_was_deleted(
        self, store: Store, parents: Parents, descending: bool, backward: bool, of_all: bool
    ) -> None:
        scope = EVERYONE if of_all else Scope(parents.account_sid)
        rows = sorted(
            (row_of(new_interaction(parents, NOON_US + n // 4)) for n in range(12)), key=position
        )
        await store.record(rows)
        listed = rows[::-1] if descending else rows
        gone = listed[6]
        await store.delete(EVERYONE, parents.key(gone.sid), NOW_US)
        edge = Cursor(position_in(scope, gone), backward)
        asked = query(parents, limit=4, descending=descending, edge=edge)
        page = await store.page(scope, asked)
        expected = listed[2:6] if backward else listed[7:11]
        assert page.frames == b"".join(row.frame for row in expected)
        assert page.first == position_in(scope, expected[0])
        assert page.last == position_in(scope, expected[-1])
        assert page.more
        begin = position_in(scope, expected[-1] if backward else expected[0])
        inclusive = Cursor(begin, backward, True)
        asked = query(parents, limit=4, descending=descending, edge=inclusive)
        assert await store.page(scope, asked) == page

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("backward", [False, True])
    @pytest.mark.parametrize("inclusive", [False, True])
    @pytest.mark.parametrize("wanted", [Filter(), Filter(type=pb.INTERACTION_TYPE_MESSAGE)])
    async def test_pages_of_all_accounts_have_every_row_once_in_order(
        self,
        store: Store,
        parents: Parents,
        descending: bool,
        backward: bool,
        inclusive: bool,
        wanted: Filter,
    ) -> None:
        """Also with equal times and SIDs in several accounts, from a cursor at each row."""
        accounts = [parents._replace(account_sid=new_sid("AC")) for _ in range(3)]
        shared = [new_sid("KI") for _ in range(3)]
        rows = [
            row_of(new_interaction(account, NOON_US + n // 2, sid=sid))
            for n, sid in enumerate(shared)
            for account in accounts
        ]
        rows += [row_of(new_interaction(account, NOON_US + 1)) for account in accounts]
        await store.record(rows)
        rows.sort(key=position, reverse=descending)
        for place, row in enumerate(rows):
            edge = Cursor(position(row), backward, inclusive)
            asked = query(parents, limit=4, descending=descending, edge=edge, filter=wanted)
            page = await store.page(EVERYONE, asked)
            beyond = rows[: place + inclusive][::-1] if backward else rows[place + 1 - inclusive :]
            expected = beyond[:4][::-1] if backward else beyond[:4]
            assert page == (
                b"".join(row.frame for row in expected),
                len(expected),
                position(expected[0]) if expected else None,
                position(expected[-1]) if expected else None,
                len(beyond) > 4,
            )
        for account in accounts:
            scope = Scope(account.account_sid)
            own = [row for row in rows if row.account_sid == account.account_sid]
            asked = query(parents, descending=descending, filter=wanted)
            page = await store.page(scope, asked)
            assert page.frames == b"".join(row.frame for row in own)
            assert page.first == position_in(scope, own[0])

    async def test_a_page_of_all_accounts_is_bounded_in_bytes(
        self, store: Store, parents: Parents
    ) -> None:
        accounts = [parents._replace(account_sid=new_sid("AC")) for _ in range(2)]
        rows = [
            row_of(new_interaction(accounts[n % 2], NOON_US + n, data="x" * 10_000))
            for n in range(10)
        ]
        await store.record(rows)
        size = sum(len(row.frame) for row in rows[:3])
        page = await store.page(EVERYONE, query(parents, max_bytes=size))
        assert (page.rows, page.more) == (3, True)
        assert page.frames == b"".join(row.frame for row in rows[:3])

    async def test_two_services_may_share_a_session(self, store: Store, parents: Parents) -> None:
        other = parents._replace(service_sid=new_sid("KS"))
        rows = [row_of(new_interaction(p, NOON_US + n)) for n in range(5) for p in (parents, other)]
        await store.record(rows)
        for scope in (EVERYONE, Scope(parents.account_sid)):
            for p, own in ((parents, rows[::2]), (other, rows[1::2])):
                page = await store.page(scope, query(p, limit=4))
                assert page.frames == b"".join(row.frame for row in own[:4])
                assert page.more
                rest = await store.page(scope, query(p, limit=4, edge=Cursor(page.last)))  # type: ignore[arg-type]
                assert rest.frames == own[4].frame
                assert not rest.more

    async def test_more_is_set_only_if_rows_follow(self, store: Store, parents: Parents) -> None:
        rows = sorted(
            (row_of(new_interaction(parents, NOON_US + n)) for n in range(4)), key=position
        )
        await store.record(rows)
        assert (await store.page(EVERYONE, query(parents, limit=3))).more
        assert not (await store.page(EVERYONE, query(parents, limit=4))).more
        past = query(parents, edge=Cursor(position(rows[-1])))
        assert await store.page(EVERYONE, past) == (b"", 0, None, None, False)
        before = query(parents, limit=2, edge=Cursor(position(rows[2]), backward=True))
        assert not (await store.page(EVERYONE, before)).more

    async def test_a_page_is_bounded_in_bytes_but_never_empty(
        self, store: Store, parents: Parents
    ) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n, data="x" * 10_000)) for n in range(10)]
        await store.record(rows)
        size = sum(len(row.frame) for row in rows[:3])
        page = await store.page(EVERYONE, query(parents, max_bytes=size))
        assert page.frames == b"".join(row.frame for row in rows[:3])
        assert page.more
        size = sum(len(row.frame) for row in rows[6:9])
        back = query(parents, max_bytes=size, edge=Cursor(position(rows[9]), backward=True))
        page = await store.page(EVERYONE, back)
        assert page.frames == b"".join(row.frame for row in rows[6:9])
        assert page.more
        page = await store.page(EVERYONE, query(parents, max_bytes=1))
        assert page.frames == rows[0].frame

    async def test_a_page_has_only_rows_of_its_scope_and_parents(
        self, store: Store, parents: Parents
    ) -> None:
        others = [
            parents._replace(service_sid=new_sid("KS")),
            parents._replace(session_sid=new_sid("KC")),
            parents._replace(account_sid=new_sid("AC")),
        ]
        mine = row_of(new_interaction(parents))
        await store.record([mine, *(row_of(new_interaction(other)) for other in others)])
        page = await store.page(Scope(parents.account_sid), query(parents))
        assert page.frames == mine.frame
        assert (await store.page(EVERYONE, query(parents))).rows == 2

    async def test_filters_match_either_leg(self, store: Store, parents: Parents) -> None:
        leg, other = new_leg(pb.RESOURCE_STATUS_BUSY), new_leg(pb.RESOURCE_STATUS_READ)
        voice = pb.INTERACTION_TYPE_VOICE
        made = {
            "in": new_interaction(parents, NOON_US + 1, inbound=leg, outbound=other),
            "out": new_interaction(parents, NOON_US + 2, inbound=None, outbound=leg),
            "neither": new_interaction(parents, NOON_US + 3, inbound=other, outbound=None),
            "voice": new_interaction(parents, NOON_US + 4, inbound=None, outbound=None, type=voice),
        }
        await store.record([row_of(interaction) for interaction in made.values()])
        cases = [
            (Filter(), {"in", "out", "neither", "voice"}),
            (Filter(type=voice), {"voice"}),
            (Filter(type=pb.INTERACTION_TYPE_UNKNOWN), set()),
            (Filter(participant_sid=leg.participant_sid), {"in", "out"}),
            (Filter(resource_sid=leg.resource_sid), {"in", "out"}),
            (Filter(resource_status=pb.RESOURCE_STATUS_BUSY), {"in", "out"}),
            (Filter(resource_status=pb.RESOURCE_STATUS_READ), {"in", "neither"}),
            (Filter(created_from_us=NOON_US + 2), {"out", "neither", "voice"}),
            (Filter(created_before_us=NOON_US + 2), {"in"}),
            (
                Filter(created_from_us=NOON_US + 2, created_before_us=NOON_US + 4),
                {"out", "neither"},
            ),
            (Filter(created_from_us=NOON_US + 4, created_before_us=NOON_US + 2), set()),
            (
                Filter(
                    type=pb.INTERACTION_TYPE_MESSAGE,
                    created_from_us=NOON_US + 2,
                    participant_sid=leg.participant_sid,
                    resource_status=pb.RESOURCE_STATUS_BUSY,
                ),
                {"out"},
            ),
        ]
        for wanted, names in cases:
            for descending in (False, True):
                asked = query(parents, filter=wanted, descending=descending)
                page = await store.page(EVERYONE, asked)
                assert set(sids(page.frames)) == {made[name].sid for name in names}, wanted

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("backward", [False, True])
    async def test_a_cursor_and_bounds_in_time_both_apply(
        self, store: Store, parents: Parents, descending: bool, backward: bool
    ) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n)) for n in range(12)]
        await store.record(rows)
        wanted = Filter(created_from_us=NOON_US + 2, created_before_us=NOON_US + 10)
        listed = rows[9:1:-1] if descending else rows[2:10]
        everything = rows[::-1] if descending else rows
        for edge in everything:
            place = everything.index(edge)
            beyond = everything[:place] if backward else everything[place + 1 :]
            asked = query(
                parents,
                filter=wanted,
                descending=descending,
                edge=Cursor(position(edge), backward),
            )
            page = await store.page(EVERYONE, asked)
            assert page.frames == b"".join(row.frame for row in listed if row in beyond)

    async def test_scan_returns_all_rows_in_order_and_resumes(
        self, store: Store, parents: Parents
    ) -> None:
        families = [parents, *(parents._replace(session_sid=new_sid("KC")) for _ in range(3))]
        families.append(families[0]._replace(service_sid=new_sid("KS")))
        other = parents._replace(account_sid=new_sid("AC"))
        families.append(other)
        rows = [row_of(new_interaction(p, NOON_US + n // 2)) for p in families for n in range(5)]
        await store.record(rows)
        rows.sort(key=lambda row: (row.session_sid, row.account_sid, row.created_us, row.sid))

        async def scanned(**only: str) -> list[bytes]:
            frames: list[bytes] = []
            after: ScanPosition | None = None
            while True:
                more, after = await store.scan(after=after, limit=4, max_bytes=MIB, **only)
                assert 0 < len(more) <= 4 or not frames
                frames += more
                if after is None:
                    return frames

        assert await scanned() == [row.frame for row in rows]
        assert await scanned(service_sid=parents.service_sid) == [
            row.frame for row in rows if row.service_sid == parents.service_sid
        ]
        assert await scanned(service_sid=parents.service_sid, session_sid=parents.session_sid) == [
            row.frame
            for row in rows
            if (row.service_sid, row.session_sid) == (parents.service_sid, parents.session_sid)
        ]
        for account in (parents.account_sid, other.account_sid):
            assert await scanned(account_sid=account) == [
                row.frame for row in rows if row.account_sid == account
            ]
        assert await scanned(session_sid=new_sid("KC")) == []

    async def test_scan_is_bounded_by_bytes(self, store: Store, parents: Parents) -> None:
        rows = [row_of(new_interaction(parents, NOON_US + n, data="x" * 1000)) for n in range(4)]
        await store.record(rows)
        size = len(rows[0].frame) + len(rows[1].frame)
        frames, after = await store.scan(after=None, limit=10, max_bytes=size)
        assert frames == [rows[0].frame, rows[1].frame]
        assert after == (parents.session_sid, parents.account_sid, rows[1].created_us, rows[1].sid)
