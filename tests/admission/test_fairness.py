"""Bulk writes pause while reads run."""

import asyncio
from pathlib import Path

import pytest
from testing.build import Parents, new_interaction

from interaction_svc.admission.fairness import (
    RECENT_READ_SECONDS,
    ROWS_PER_YIELD,
    SWITCH_INTERVAL_SECONDS,
    ReadPriority,
)
from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.domain.errors import InteractionNotFound
from interaction_svc.domain.interactions import InteractionKey
from interaction_svc.domain.principals import ANONYMOUS
from interaction_svc.store.factory import open_store


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_read_counts_as_recent_for_a_limited_time() -> None:
    clock = Clock()
    reads = ReadPriority(clock)
    assert not reads.has_recent_read()
    reads.note_read()
    clock.now += 0.9 * RECENT_READ_SECONDS
    assert reads.has_recent_read()
    clock.now += 0.2 * RECENT_READ_SECONDS
    assert not reads.has_recent_read()


async def test_a_stream_sleeps_at_each_yield_only_while_reads_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleeps: list[float] = []

    async def note_sleep(seconds: float) -> None:
        sleeps.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", note_sleep)
    clock = Clock()
    reads = ReadPriority(clock)
    for number in range(1, 5):
        await reads.yield_to_reads(number)
    assert sleeps == []
    reads.note_read()
    for number in range(1, 5):
        await reads.yield_to_reads(number)
    assert len(sleeps) == 4
    assert all(seconds > 0 for seconds in sleeps)


async def test_a_stream_yields_the_event_loop_to_other_work_at_every_fifth_yield(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iterations: list[float] = []

    async def note_sleep(seconds: float) -> None:
        iterations.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", note_sleep)
    reads = ReadPriority(Clock())
    for number in range(1, 5):
        await reads.yield_to_reads(number)
    assert iterations == []
    await reads.yield_to_reads(5)
    assert 3 <= len(iterations) <= 20
    assert set(iterations) == {0}


async def test_each_read_of_the_application_is_noted(tmp_path: Path, parents: Parents) -> None:
    clock = Clock()
    reads = ReadPriority(clock)
    store = await open_store(f"sqlite:///{tmp_path}/interactions.db", reads=reads)
    try:
        interactions, ingest = Interactions(store, reads), Ingest(store, reads)
        made = new_interaction(parents)
        await ingest.record(ANONYMOUS, made)
        assert not reads.has_recent_read()
        key = InteractionKey(parents.service_sid, parents.session_sid, made.sid)
        await interactions.get(ANONYMOUS, key)
        assert reads.has_recent_read()
        clock.now += 1
        with pytest.raises(InteractionNotFound):
            await interactions.get(ANONYMOUS, key._replace(sid=new_interaction(parents).sid))
        assert reads.has_recent_read()
    finally:
        await store.close()


def test_threads_switch_at_least_once_in_the_time_of_the_rows_between_yields() -> None:
    """A check of 10 rows takes 0.1 ms and more (see ROWS_PER_YIELD)."""
    assert SWITCH_INTERVAL_SECONDS <= ROWS_PER_YIELD * 0.00001
