"""A database with many rows of many Sessions, and the store calls that bench/plans.py measures."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_parents, new_sid
from testing.postgres import Cluster

from interaction_svc.domain import timestamps
from interaction_svc.domain.interactions import Filter, Scope
from interaction_svc.domain.paging import Cursor, Position
from interaction_svc.domain.units import MIB
from interaction_svc.store import ApiKey, Expired, PageQuery, Row, decode, row_of
from interaction_svc.store.bulk_delete import MAX_DELETED, FoundRow
from interaction_svc.store.postgres import api_keys, bulk_delete, reads, writes
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.row_format import digits, packed_row

ROWS_A_SESSION = 100
LARGE_PART = 10
"""One row in 10 belongs to the large Session."""
KEYS = 1_000
TOMBSTONES = 100_000
TOGETHER = 100
"""Records in a batch."""
_BODY = '{"body":"' + "Your courier is on the way and will be with you shortly. " * 2 + '"}'
_BATCH = 10_000
_CHOSEN = 40_000
Call = Callable[[Connection], Awaitable[object]]


@dataclass
class Filled:
    """The contents of the database, and the keys to query."""

    large: Parents
    large_rows: list[Row] = field(default_factory=list)
    some: list[Row] = field(default_factory=list)
    """Rows of the other Sessions; each is used once."""
    keys: list[ApiKey] = field(default_factory=list)


async def fill(cluster: Cluster, database: str, count: int) -> Filled:
    """Fill the tables. The rows of the Sessions are interleaved, as in production."""
    large = new_parents()
    filled = Filled(large)
    sessions = [new_parents() for _ in range(max(1, count // ROWS_A_SESSION))]
    template = row_of(new_interaction(large, data=_BODY))
    chosen = max(1, count // _CHOSEN)
    async with cluster.connected(database) as db:
        for begin in range(0, count, _BATCH):
            made = []
            for n in range(begin, min(begin + _BATCH, count)):
                in_large = n % LARGE_PART == 0
                parents = large if in_large else sessions[n % len(sessions)]
                row = _row(template, parents, n)
                made.append(row)
                if in_large:
                    filled.large_rows.append(row)
                elif n % chosen == chosen - 1:
                    filled.some.append(row)
            await db.copy_records_to_table(
                "interactions", records=map(packed_row, made), columns=Row._fields
            )
        await db.copy_records_to_table(
            "session_owners",
            records=[
                tuple(map(digits, (one.session_sid, one.service_sid, one.account_sid)))
                for one in (large, *sessions)
            ],
            columns=("session_sid", "service_sid", "account_sid"),
        )
        await db.copy_records_to_table(
            "tombstones",
            records=[
                (*(digits(new_sid(prefix)) for prefix in ("KC", "AC", "KI")), NOON_US)
                for _ in range(TOMBSTONES)
            ],
            columns=("session_sid", "account_sid", "sid", "deleted_us"),
        )
        filled.keys = [
            ApiKey(new_sid("SK"), new_sid("AC"), "read", bytes(32), NOON_US, None)
            for _ in range(KEYS)
        ]
        await db.copy_records_to_table("api_keys", records=filled.keys, columns=ApiKey._fields)
    random.Random(0).shuffle(filled.some)
    return filled


def _row(template: Row, parents: Parents, number: int) -> Row:
    """Return a copy of the template with other SIDs and times."""
    ids = {"sid": new_sid("KI"), **parents._asdict(), "inbound_participant_sid": new_sid("KP")}
    frame = template.frame
    for name, sid in ids.items():
        frame = frame.replace(getattr(template, name).encode(), sid.encode())
    interaction = decode(frame)
    for time in (interaction.create_time, interaction.update_time):
        timestamps.set_us(time, NOON_US + number * SECOND_US)
    return row_of(interaction)


def calls_on(filled: Filled) -> list[tuple[str, Callable[[int], Call]]]:
    """Return pairs of a call's name and a factory, which makes the call for a round."""
    large, rows = filled.large, sorted(filled.large_rows, key=lambda row: (row.created_us, row.sid))
    some = iter(filled.some)
    scope = Scope(large.account_sid)

    def get(_: int) -> Call:
        return partial(reads.get, wanted=_wanted(next(some)))

    def gets(_: int) -> Call:
        return partial(reads.get_each, wanted=[_wanted(next(some)) for _ in range(16)])

    def page(limit: int, at: int | None = None, **given: Any) -> Callable[[int], Call]:
        def asked(_: int) -> Call:
            edge = None if at is None else Cursor(Position(rows[at].created_us, rows[at].sid))
            query = PageQuery(
                large.service_sid, large.session_sid, limit, 4 * MIB, edge=edge, **given
            )
            return partial(reads.page, scope=scope, query=query)

        return asked

    def record(make: Callable[[], list[Row]]) -> Callable[[int], Call]:
        return lambda _: partial(writes.record, rows=make(), statements=writes.UNSHARDED)

    def new(parents: Parents) -> Row:
        return row_of(new_interaction(parents, data=_BODY))

    def updated(row: Row) -> Row:
        interaction = decode(row.frame)
        timestamps.set_us(interaction.update_time, row.updated_us + SECOND_US)
        interaction.data = f"{_BODY} again"
        return row_of(interaction)

    def delete(_: int) -> Call:
        row = next(some)
        scope, key = _wanted(row)
        return partial(writes.delete, scope=scope, key=key, now_us=NOON_US)

    def sweep(before_us: int) -> Callable[[int], Call]:
        return lambda _: partial(bulk_delete.find, what=Expired(before_us), after=None)

    def swept(_: int) -> Call:
        found = [
            FoundRow(*map(digits, row[:4])) for row in (next(some) for _ in range(MAX_DELETED))
        ]
        return partial(bulk_delete.delete, what=Expired(2**62), rows=found, now_us=NOON_US)

    def key(_: int) -> Call:
        return partial(api_keys.of_user, user=random.choice(filled.keys).sid)

    last = len(rows) - 51
    rare = Filter(participant_sid=rows[len(rows) // 2].inbound_participant_sid)
    return [
        ("Get", get),
        ("batch of 16 Gets", gets),
        ("List 50, first page", page(50)),
        (f"List 50, last page of {len(rows):,}", page(50, at=last)),
        ("List 50, newest first", page(50, descending=True)),
        ("List 50, filter: the type of all rows", page(50, filter=Filter(type=1))),
        (f"List 50, filter: a participant of 1 row in {len(rows):,}", page(50, filter=rare)),
        ("List 1000, first page", page(1000)),
        ("Record, new", record(lambda: [new(_parents(next(some)))])),
        ("Record, new, the first of its Session", record(lambda: [new(new_parents())])),
        ("Record, unchanged", record(lambda: [next(some)])),
        ("Record, an update", record(lambda: [updated(next(some))])),
        (f"batch of {TOGETHER} Records, of {TOGETHER} Sessions", record(
            lambda: [new(_parents(next(some))) for _ in range(TOGETHER)]
        )),
        ("Delete", delete),
        ("key lookup", key),
        ("bulk delete: scan, nothing expired", sweep(NOON_US)),
        (f"bulk delete: batch of {MAX_DELETED}", swept),
    ]  # fmt: skip


def _parents(row: Row) -> Parents:
    return Parents(row.account_sid, row.service_sid, row.session_sid)


def _wanted(row: Row) -> reads.Wanted:
    return Scope(row.account_sid), _parents(row).key(row.sid)
