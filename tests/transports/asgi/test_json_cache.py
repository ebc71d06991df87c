"""The cache of rendered rows: its hits, its size and its age."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable

import orjson
import pytest
from testing.build import new_interaction, new_parents

from interaction_svc.codec import twilio_json
from interaction_svc.codec.twilio_json import Resource, to_json
from interaction_svc.domain.errors import DataLoss
from interaction_svc.store import Row, row_of
from interaction_svc.transports.asgi import json_cache
from interaction_svc.transports.asgi.json_cache import JsonCache
from interaction_svc.v1 import interaction_pb2 as pb

BASE_URL = "https://interactions.example"


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the SID of each rendered row is added."""
    sids: list[str] = []

    def noted(interaction: pb.Interaction, base_url: str) -> Resource:
        sids.append(interaction.sid)
        return twilio_json.to_json(interaction, base_url)

    monkeypatch.setattr(sys.modules[__name__], "to_json", noted)
    return sids


def render(interaction: pb.Interaction) -> bytes:
    return orjson.dumps(to_json(interaction, BASE_URL))


def some_rows(count: int, data: str = "{}") -> list[Row]:
    parents = new_parents()
    return [row_of(new_interaction(parents, data=data)) for _ in range(count)]


def frames(rows: list[Row]) -> bytes:
    return b"".join(row.frame for row in rows)


async def test_each_row_has_its_own_json_in_any_order_of_requests(rendered: list[str]) -> None:
    rows, cache = some_rows(5), JsonCache(render)
    for asked in (rows[:3], rows[2:], rows[::-1], rows, rows):
        found = [json.loads(each) for each in cache.render_page(frames(asked))]
        assert [each["sid"] for each in found] == [row.sid for row in asked]
        assert all(each["url"].startswith(BASE_URL) for each in found)
        assert [json.loads(cache.render_item(row.frame)) for row in asked] == found
    assert Counter(rendered) == {row.sid: 2 for row in rows}  # from then on it is cached
    assert cache.render_page(b"") == []


async def test_a_changed_row_is_rendered_again() -> None:
    interaction, cache = new_interaction(new_parents(), data="before"), JsonCache(render)
    cache.render_page(row_of(interaction).frame)
    interaction.data = "after"
    (found,) = cache.render_page(row_of(interaction).frame)
    assert json.loads(found)["data"] == "after"


async def test_the_size_of_the_cache_is_bounded(
    rendered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_cache, "KEPT_BYTES", 100_000)
    rows, cache = some_rows(100, data="x" * 5_000), JsonCache(render)
    for row in rows:
        cache.render_page(row.frame + row.frame)
    del rendered[:]
    cache.render_page(rows[-1].frame)  # the youngest is cached
    assert rendered == []
    cache.render_page(frames(rows[:50]))
    assert rendered == [row.sid for row in rows[:50]]  # the old ones are not cached


async def test_rows_that_are_not_requested_leave_the_cache(
    rendered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    due: list[Callable[[], None]] = []

    def call_later(seconds: float, callback: Callable[[], None]) -> asyncio.Handle:
        assert seconds == json_cache.SECONDS_KEPT
        due.append(callback)
        return asyncio.Handle(callback, (), asyncio.get_running_loop())

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    (asked_again, left), cache = some_rows(2), JsonCache(render)
    cache.render_page(2 * (asked_again.frame + left.frame))
    del rendered[2:]
    for _ in range(3):
        due.pop()()
        cache.render_page(asked_again.frame)
    assert rendered == [asked_again.sid, left.sid]  # a requested row stays
    cache.render_page(left.frame)
    assert rendered[2:] == [left.sid]
    due.pop()()
    due.pop()()
    assert due == []  # an empty cache has no timer
    cache.render_page(asked_again.frame)
    assert rendered[3:] == [asked_again.sid]


async def test_damaged_rows_raise_data_loss() -> None:
    for damaged in (b"\x0a\x05ab", b"\x0a\x02\x0a\x09"):
        with pytest.raises(DataLoss):
            JsonCache(render).render_page(damaged)
