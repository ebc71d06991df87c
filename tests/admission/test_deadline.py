"""The shared deadline of requests, which has one timer for all of them."""

import asyncio

import pytest

from interaction_svc.admission.deadline import SharedDeadline
from interaction_svc.domain.errors import DeadlineExceeded

SECONDS = 0.02


async def wait_within(deadline: SharedDeadline) -> None:
    with deadline:
        await asyncio.Event().wait()


async def test_each_task_beyond_the_deadline_is_ended() -> None:
    deadline = SharedDeadline(SECONDS)
    first = asyncio.create_task(wait_within(deadline))
    await asyncio.sleep(SECONDS / 2)  # the timer of the first task is then set for the second
    second = asyncio.create_task(wait_within(deadline))
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], DeadlineExceeded)
    assert isinstance((await asyncio.gather(second, return_exceptions=True))[0], DeadlineExceeded)
    with pytest.raises(DeadlineExceeded):
        await wait_within(deadline)  # the deadline works again after its timer has ended


async def test_tasks_within_the_deadline_are_unaffected() -> None:
    deadline = SharedDeadline(SECONDS)
    for _ in range(3):
        with deadline:
            await asyncio.sleep(0)
    await asyncio.sleep(2 * SECONDS)
    with pytest.raises(LookupError), deadline:
        raise LookupError


async def test_a_cancellation_by_others_ends_the_task() -> None:
    task = asyncio.create_task(wait_within(SharedDeadline(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
