"""The write queue: accounts take turns, and none fills it."""

import asyncio
from typing import Any, NamedTuple

import pytest

from interaction_svc.store.errors import StoreBusyError
from interaction_svc.store.write_queue import MAX_ROWS_PER_ACCOUNT, WriteQueue


class Operation(NamedTuple):
    account: str
    rows: int
    done: "asyncio.Future[Any]"
    size: int = 1


@pytest.fixture
async def done() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


async def test_a_single_row_of_another_account_is_in_the_next_commit(
    done: "asyncio.Future[Any]",
) -> None:
    queue: WriteQueue[Operation] = WriteQueue()
    batches = [Operation("flood", MAX_ROWS_PER_ACCOUNT, done, size) for size in range(3)]
    for batch in batches:
        queue.put(batch)
    others = [Operation("other", 1, done, size) for size in range(2)]
    for one in others:
        queue.put(one)
    assert queue.take() == [batches[0], *others]
    assert queue.take() == [batches[1]]
    assert queue.take() == [batches[2]]
    assert not queue


async def test_small_operations_of_an_account_share_a_commit(done: "asyncio.Future[Any]") -> None:
    queue: WriteQueue[Operation] = WriteQueue()
    small = [Operation("one", MAX_ROWS_PER_ACCOUNT // 4, done, size) for size in range(5)]
    for operation in small:
        queue.put(operation)
    assert queue.take() == small[:4]
    assert queue.take() == small[4:]


async def test_an_account_may_use_half_of_the_queue(done: "asyncio.Future[Any]") -> None:
    queue: WriteQueue[Operation] = WriteQueue(max_waiting_rows=10)
    for _ in range(5):
        queue.put(Operation("flood", 1, done))
    with pytest.raises(StoreBusyError, match="5 rows"):
        queue.put(Operation("flood", 1, done))
    for _ in range(5):
        queue.put(Operation("other", 1, done))
    with pytest.raises(StoreBusyError, match="10 rows"):
        queue.put(Operation("third", 1, done))
    assert len(queue.take()) == 10
    queue.put(Operation("flood", 100, done))
    assert len(queue.take()) == 1
