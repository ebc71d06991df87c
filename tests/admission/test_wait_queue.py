"""Calls that wait for a place or for the share of their account, against random schedules."""

import asyncio
import math
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.wait_queue import WaitQueue
from interaction_svc.domain.errors import Overloaded
from interaction_svc.domain.principals import ANONYMOUS, Principal

CALLERS = (*(Principal(account, "SK1") for account in "ABC"), Principal(None, "SK2"), ANONYMOUS)


class Limits(NamedTuple):
    most: int
    waiting: int
    share: float

    @property
    def of_account(self) -> int:
        return math.ceil(self.most * self.share)

    @property
    def waiting_of_account(self) -> int:
        return math.ceil(self.waiting * self.share)

    def build(self) -> ConcurrencyLimit:
        return ConcurrencyLimit(self.most, most_waiting=self.waiting, call_share=self.share)


class Call:
    """A call, which uses the limit as the pipeline does."""

    def __init__(self, schedule: "Schedule", caller: Principal, *, is_stream: bool) -> None:
        self.caller = caller
        self.state = "new"
        self.is_refused_in_vain = False
        self._schedule = schedule
        self._limit = schedule.limit
        self._is_stream = is_stream
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        limit, caller = self._limit, self.caller
        try:
            place = limit.place()
            if place is None:
                self.state = "waits for a place"
                place = await limit.wait_for_place(caller.quota_key)
            with place:
                if not limit.begin(caller, is_stream=self._is_stream):
                    self.state = "waits for its share"
                    await limit.wait_for_share(caller)
                self.state = "runs"
                try:
                    await self._end.wait()
                finally:
                    limit.end(caller, is_stream=self._is_stream)
            self.state = "done"
        except Overloaded:
            self.state = "refused"
            self.is_refused_in_vain = not self._is_stream and self._schedule.has_room(caller)
        except asyncio.CancelledError:
            self.state = "cancelled"

    @property
    def waits(self) -> bool:
        return self.state.startswith("waits")

    def end(self) -> None:
        self._end.set()


class Schedule:
    """Calls in progress, and the invariants of their limit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.limit = limits.build()
        self.calls: list[Call] = []

    def start(self, caller: Principal, *, is_stream: bool = False) -> Call:
        call = Call(self, caller, is_stream=is_stream)
        self.calls.append(call)
        return call

    def of(self, state: str) -> list[Call]:
        return [call for call in self.calls if call.state.startswith(state)]

    def has_room(self, caller: Principal) -> bool:
        """Return whether a further call of this caller may wait."""
        waiting = self.of("waits")
        of_caller = sum(call.caller is caller for call in waiting)
        return len(waiting) < self.limits.waiting and of_caller < self.limits.waiting_of_account

    def act(self, action: str, number: int) -> None:
        """Do one action without a turn of the event loop."""
        if action in ("start", "stream"):
            self.start(CALLERS[number % len(CALLERS)], is_stream=action == "stream")
            return
        calls = self.of("runs") if action == "end" else [c for c in self.calls if not c.task.done()]
        if calls:
            call = calls[number % len(calls)]
            if action == "end":
                call.end()
            else:
                call.task.cancel()

    async def turn(self) -> None:
        """Run the event loop once, and check the invariants."""
        await asyncio.sleep(0)
        running, waiting = self.of("runs"), self.of("waits")
        assert len(running) <= self.limits.most
        for count in Counter(c.caller for c in running if c.caller is not ANONYMOUS).values():
            assert count <= self.limits.of_account or self.limits.share == 1
        assert len(waiting) <= self.limits.waiting
        assert not any(call.is_refused_in_vain for call in self.calls)
        for count in Counter(call.caller for call in waiting).values():
            assert count <= self.limits.waiting_of_account

    async def settle(self) -> None:
        """Run the event loop until nothing changes, and check that no call waits needlessly."""
        before = None
        while before != (before := [call.state for call in self.calls]):
            for _ in range(4):
                await self.turn()
        running, waiting = self.of("runs"), self.of("waits")
        for call in waiting:
            of_caller = sum(other.caller == call.caller for other in running)
            assert len(running) == self.limits.most or of_caller == self.limits.of_account

    async def finish(self) -> None:
        """Run all calls to their ends, and check that everything is free afterwards."""
        while [call for call in self.calls if not call.task.done()]:
            await self.settle()
            for call in self.of("runs"):
                call.end()
            await self.settle()
        await self.settle()
        assert not self.of("waits")
        await self.check_free()

    async def check_free(self) -> None:
        """Check that no place, share or room is lost or gained: fill the limit once more."""
        limits = self.limits
        self.calls = [self.start(Principal(f"new {n}", "SK")) for n in range(limits.most)]
        await self.settle()
        assert len(self.of("runs")) == limits.most
        waiting = [self.start(Principal(f"late {n}", "SK")) for n in range(limits.waiting + 1)]
        await self.settle()
        assert [call.state for call in waiting[:-1]] == ["waits for a place"] * limits.waiting
        assert waiting[-1].state == "refused"
        for call in self.calls:
            call.task.cancel()
        await self.settle()
        for caller in CALLERS[:-1]:
            self.calls = [self.start(caller) for _ in range(limits.of_account + 1)]
            await self.settle()
            assert len(self.of("runs")) == limits.of_account
            for call in self.calls:
                call.task.cancel()
            await self.settle()


a_limit = st.builds(Limits, st.integers(1, 4), st.integers(0, 6), st.sampled_from([0.3, 0.6, 1]))
an_action = st.tuples(
    st.sampled_from(["start", "start", "start", "stream", "end", "end", "cancel", "turn", "turn"]),
    st.integers(0, 30),
)


@settings(max_examples=400)
@given(a_limit, st.lists(an_action, min_size=10, max_size=60))
def test_no_schedule_exceeds_a_limit_or_loses_a_place(
    limits: Limits, actions: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        schedule = Schedule(limits)
        for action, number in actions:
            if action == "turn":
                await schedule.turn()
            else:
                schedule.act(action, number)
        await schedule.finish()

    asyncio.run(run())


@settings(max_examples=400)
@given(a_limit, st.lists(an_action, min_size=10, max_size=60))
def test_the_calls_of_an_account_begin_in_the_order_of_their_arrival(
    limits: Limits, actions: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        schedule = Schedule(limits)
        for action, number in actions:
            if action not in ("turn", "stream"):
                schedule.act(action, number)
            await schedule.settle()
            for caller in CALLERS:
                of_caller = [call for call in schedule.calls if call.caller is caller]
                first = next((n for n, call in enumerate(of_caller) if call.waits), len(of_caller))
                later = [call.state for call in of_caller[first:]]
                assert "runs" not in later
                assert "done" not in later
        await schedule.finish()

    asyncio.run(run())


@pytest.mark.parametrize("share", [1, 0.5])
async def test_a_call_that_is_cancelled_when_it_is_selected_passes_its_turn_on(
    share: float,
) -> None:
    schedule = Schedule(Limits(2 if share < 1 else 1, 3, share))
    running, selected, last = (schedule.start(CALLERS[0]) for _ in range(3))
    await schedule.settle()
    assert [call.waits for call in (running, selected, last)] == [False, True, True]
    running.end()
    while running.state != "done":
        await asyncio.sleep(0)
    selected.task.cancel()
    await schedule.settle()
    assert (selected.state, last.state) == ("cancelled", "runs")
    await schedule.finish()


async def test_a_call_that_waits_for_its_share_holds_no_place() -> None:
    schedule = Schedule(Limits(2, 8, 0.5))
    calls = [schedule.start(CALLERS[0]) for _ in range(5)]
    await schedule.settle()
    other = schedule.start(CALLERS[1])
    await schedule.settle()
    assert [call.state for call in calls] == ["runs"] + ["waits for its share"] * 4
    assert other.state == "runs"
    # Four calls, half of those that may wait, are the most for an account.
    refused, waiting = schedule.start(CALLERS[0]), schedule.start(CALLERS[1])
    await schedule.settle()
    assert (refused.state, waiting.waits) == ("refused", True)
    await schedule.finish()


async def test_a_cancelled_call_leaves_the_queue() -> None:
    queue = WaitQueue()
    waiting = [asyncio.create_task(queue.wait(lambda: None)) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(queue) == 3
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert len(queue) == 0


async def test_a_call_that_stops_waiting_for_its_share_does_not_free_the_place_of_another() -> None:
    schedule = Schedule(Limits(2, 4, 0.5))
    running, waiting = (schedule.start(CALLERS[0]) for _ in range(2))
    await schedule.settle()
    other, last = schedule.start(CALLERS[1]), schedule.start(CALLERS[2])
    await schedule.settle()
    waiting.task.cancel()
    await schedule.settle()
    assert [call.state for call in (running, waiting, other, last)] == [
        "runs", "cancelled", "runs", "waits for a place",
    ]  # fmt: skip
    await schedule.finish()


async def test_a_call_that_waits_for_a_place_with_its_share_returns_the_share() -> None:
    schedule = Schedule(Limits(2, 6, 0.5))
    running, waiting = (schedule.start(CALLERS[0]) for _ in range(2))
    await schedule.settle()
    others = [schedule.start(caller) for caller in CALLERS[1:3]]
    await schedule.settle()
    running.end()  # its place is passed to one of the others, and its share to the waiting call
    await schedule.settle()
    assert [call.state for call in (waiting, *others)] == ["waits for its share", "runs", "runs"]
    waiting.task.cancel()
    await schedule.settle()
    others[0].end()
    await schedule.settle()
    again = schedule.start(CALLERS[0])
    await schedule.settle()
    assert again.state == "runs"
    await schedule.finish()


async def test_streams_beyond_a_share_do_not_wait() -> None:
    schedule = Schedule(Limits(4, 8, 0.5))
    streams = [schedule.start(CALLERS[0], is_stream=True) for _ in range(3)]
    await schedule.settle()
    assert [call.state for call in streams] == ["runs", "runs", "refused"]
    await schedule.finish()
