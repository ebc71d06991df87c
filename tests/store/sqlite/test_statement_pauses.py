"""A batch pauses between its statements while reads run."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from testing.build import Parents, new_interaction

from interaction_svc.admission.fairness import ReadPriority
from interaction_svc.domain.interactions import Outcome
from interaction_svc.store import row_of
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite.store import SqliteStore
from tests.store.sqlite.files import url


class Reads(ReadPriority):
    """Reads that run throughout a test, or never."""

    running = False

    def has_recent_read(self) -> bool:
        return self.running


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
async def store(tmp_path: Path, reads: Reads) -> AsyncIterator[SqliteStore]:
    opened = await open_store(url(tmp_path), reads=reads)
    assert isinstance(opened, SqliteStore)
    yield opened
    async with asyncio.timeout(30):
        await opened.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    noted: list[float] = []
    monkeypatch.setattr(time, "sleep", noted.append)
    return noted


@pytest.mark.parametrize("running", [True, False])
async def test_a_batch_pauses_between_statements_while_reads_run(
    store: SqliteStore, parents: Parents, reads: Reads, pauses: list[float], running: bool
) -> None:
    statements: list[str] = []
    reads.running = running
    await store._write.run(lambda db: db.set_trace_callback(statements.append))
    rows = [row_of(new_interaction(parents)) for _ in range(620)]
    assert {outcome for outcome, _ in await store.record(rows)} == {Outcome.CREATED}
    inserts = [each.count("), (") + 1 for each in statements if "INTO interactions" in each]
    if running:
        assert inserts == [50] * 12 + [20]
        assert len(pauses) == 12
        assert all(0 < pause <= 0.005 for pause in pauses)
    else:
        assert inserts == [250, 250, 50, 50, 20]
        assert pauses == []


async def test_single_records_do_not_pause(
    store: SqliteStore, parents: Parents, reads: Reads, pauses: list[float]
) -> None:
    reads.running = True
    await asyncio.gather(*(store.record([row_of(new_interaction(parents))]) for _ in range(40)))
    assert pauses == []
