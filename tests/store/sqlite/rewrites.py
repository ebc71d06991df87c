"""Stores to rewrite, and what a rewritten store has to hold."""

import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from testing.build import NOON_US, SECOND_US, new_interaction, new_parents

from interaction_svc.domain import timestamps
from interaction_svc.domain.units import MIB
from interaction_svc.store import (
    Store,
    decode,
)
from interaction_svc.store.factory import check_store, open_store
from interaction_svc.store.interface import MigrationProgress
from interaction_svc.store.sqlite.rewrite import rewriter as rewriting
from interaction_svc.store.sqlite.rewrite.rewriter import Rewritten
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.sqlite.files import url

PARENTS = new_parents()
COMMAND = [sys.executable, "-m", "interaction_svc"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "interactions.db"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "ROWS_PER_BATCH", 10)


def ignored(step: str, done: int, total: int) -> None:
    pass


def rewrite(
    path: Path, on_progress: MigrationProgress = ignored, stop: threading.Event | None = None
) -> Rewritten | None:
    return rewriting.rewrite(path, on_progress, stop)


async def everything(store: Store) -> list[pb.Interaction]:
    found, after = [], None
    while True:
        frames, after = await store.scan(after=after, limit=1000, max_bytes=MIB)
        found += [decode(frame) for frame in frames]
        if after is None:
            return found


def in_order(interactions: Iterable[pb.Interaction]) -> list[pb.Interaction]:
    return sorted(
        interactions,
        key=lambda one: (
            one.session_sid,
            one.account_sid,
            timestamps.to_us(one.create_time),
            one.sid,
        ),
    )


def some(count: int) -> list[pb.Interaction]:
    """Return Interactions of three Sessions of different accounts."""
    parents = [new_parents() for _ in range(3)]
    return [new_interaction(parents[n % 3], NOON_US + n * SECOND_US) for n in range(count)]


async def stored(folder: Path) -> list[pb.Interaction]:
    report = await check_store(url(folder))
    assert report.ok
    store = await open_store(url(folder), migrate=False)
    try:
        return await everything(store)
    finally:
        await store.close()
