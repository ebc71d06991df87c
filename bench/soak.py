"""`make bench-soak`: a million Gets, and 200,000 calls that their clients cancel.

After each tenth it prints the resident memory of the server, so that a leak becomes visible. At the
end no call may be in progress. It fails if a call fails that was not cancelled. Linux only.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import NamedTuple

from testing.api_keys import new_key
from testing.build import new_interaction, new_parents
from testing.process import Served, served
from testing.requests import get_request
from testing.wait import wait_until

from bench.load import Answered, Connection, Request
from bench.processes import ENGINES, GRPCIO, resident_mib
from bench.reading import grpc_request, record
from bench.report import machine, markdown

TENTHS = 10
_CALLERS = 16
_CANCELLED_A_CONNECTION = 150
"""h2corn closes a connection with more than 200 resets in 10 s."""
_CANCELLED_TOGETHER = 10
"""The cancelled calls between two others, so that grpcio's queue does not fill and refuse calls."""
_MOST_TURNS = 4
"""A call is cancelled before the client's event loop has turned so often, at a random time."""
_ANSWER_SECONDS = 30.0
_INTERACTIONS = 200
_IN_FLIGHT = "interaction_svc_calls_in_flight{"

_Work = Callable[[str, tuple[Request, ...], int], Coroutine[None, None, Answered]]


class _Result(NamedTuple):
    calls: int
    seconds: float
    mib: list[float]
    """The resident memory at the beginning, and after each tenth."""
    answered: int
    failed: dict[str, int]
    """By code, calls that failed without a cancellation."""


def main() -> int:
    """Run both parts on an engine, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, default=GRPCIO)
    parser.add_argument("--calls", type=int, default=1_000_000, help="the number of Gets")
    parser.add_argument("--cancelled", type=int, default=200_000, help="the number of cancelled")
    parser.add_argument("--at-most", type=float, default=1800.0, help="seconds, of both parts")
    given = parser.parse_args()
    end = time.monotonic() + given.at_most
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [new_interaction(new_parents()) for _ in range(_INTERACTIONS)]
        key = new_key(folder / "interactions.db", "admin")
        flags = ("--grpc-engine", given.engine, "--calls-per-second", "0")
        with served(folder, *flags) as server:
            address = server.grpc_address
            record(address, key, made)
            metadata = (("authorization", key.bearer),)
            requests = tuple(grpc_request(address, get_request(one), metadata) for one in made)
            calls = _part(server, requests, _gets, given.calls, end)
            cancelled = _part(server, requests, _cancelled_gets, given.cancelled, end)
            wait_until(lambda: not _in_flight(server))
    print(f"{given.engine}: {machine()}\n")
    heads = ("", "calls", "answered", "failed", "seconds", "resident MiB: before, at each tenth")
    print(markdown([heads, _row("Gets", calls), _row("cancelled Gets", cancelled)]))
    print("Calls in progress at the end: 0")
    return 1 if calls.failed or cancelled.failed else 0


def _row(name: str, result: _Result) -> tuple[str, ...]:
    failed = ", ".join(f"{code}: {count}" for code, count in result.failed.items()) or "0"
    mib = ", ".join(f"{each:.0f}" for each in result.mib)
    return (
        name, f"{result.calls:,}", f"{result.answered:,}", failed, f"{result.seconds:.0f}", mib
    )  # fmt: skip


def _part(
    server: Served, requests: tuple[Request, ...], work: _Work, count: int, end: float
) -> _Result:
    """Do the work in tenths. Raises TimeoutError after `end`."""
    begun = time.monotonic()
    mib = [resident_mib(server.process.pid)]
    answered = Answered()
    for number in range(TENTHS):
        of_tenth = count * (number + 1) // TENTHS - count * number // TENTHS

        async def limited(of_tenth: int = of_tenth) -> Answered:
            async with asyncio.timeout(end - time.monotonic()):
                return await work(server.grpc_address, requests, of_tenth)

        part = asyncio.run(limited())
        mib.append(resident_mib(server.process.pid))
        print(f"{of_tenth:,} calls: {mib[-1]:.0f} MiB", file=sys.stderr, flush=True)
        answered.offered += len(part.ok)
        for code, took in part.refused.items():
            answered.refused.setdefault(code, []).extend(took)
    failed = {code: len(took) for code, took in answered.refused.items()}
    return _Result(count, time.monotonic() - begun, mib, answered.offered, failed)


async def _gets(address: str, requests: tuple[Request, ...], count: int) -> Answered:
    """Call `count` times, _CALLERS at once."""
    answered = Answered()
    over = asyncio.get_running_loop().create_future()
    to_send = count

    def on_end() -> None:
        nonlocal to_send
        if to_send:
            to_send -= 1
            connection.send(random.choice(requests))
        elif not connection.sent and not over.done():
            over.set_result(None)

    connection = await _connected(address, answered, on_end)
    for _ in range(_CALLERS):
        on_end()
    await over
    _close(connection, answered)
    return answered


async def _cancelled_gets(address: str, requests: tuple[Request, ...], count: int) -> Answered:
    """Cancel `count` calls on many connections, _CALLERS at once.

    Calls that are answered before their cancellation are not among the `count`.
    """
    answered = Answered()
    to_cancel = count

    async def caller() -> None:
        nonlocal to_cancel
        while to_cancel:
            of_connection = min(_CANCELLED_A_CONNECTION, to_cancel)
            to_cancel -= of_connection
            await _cancelled_on_one(address, requests, of_connection, answered)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(caller())
    return answered


async def _cancelled_on_one(
    address: str, requests: tuple[Request, ...], count: int, answered: Answered
) -> None:
    """Cancel `count` calls on a new connection. After each few of them a call has to succeed."""
    over = asyncio.Event()
    connection = await _connected(address, answered, over.set)
    while count and connection.transport is not None:
        for _ in range(min(_CANCELLED_TOGETHER, count)):
            connection.send(random.choice(requests))
            for _ in range(random.randrange(_MOST_TURNS)):
                await asyncio.sleep(0)
            count -= connection.cancel()
        over.clear()
        if connection.send(random.choice(requests)):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await over.wait()
    _close(connection, answered)


async def _connected(address: str, answered: Answered, on_end: Callable[[], None]) -> Connection:
    host, _, port = address.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(answered, 0.0, on_end), host, int(port)
    )
    await connection.ready
    return connection


def _close(connection: Connection, answered: Answered) -> None:
    """Close a connection. If the server has closed it before, that is a failure."""
    if connection.transport is None:
        answered.refused.setdefault("connection closed", []).append(0.0)
    else:
        connection.transport.abort()


def _in_flight(server: Served) -> int:
    """Return the server's number of calls in progress, from its metrics."""
    with urllib.request.urlopen(f"{server.metrics_url}/metrics") as response:  # noqa: S310
        lines = response.read().decode().splitlines()
    return round(
        sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_IN_FLIGHT))
    )


if __name__ == "__main__":
    sys.exit(main())
