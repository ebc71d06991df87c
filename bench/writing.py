"""What writing costs, and what it costs those who read meanwhile.

`python -m bench.writing` relates, each time in rounds that take turns in one run on servers with
default settings and keys: records of 64 callers at once to those of one, beside what 64 callers of
an empty RPC get; the bulk stream to
`executemany` of the same rows; and a List of 50 beside a bulk stream to one on an idle server.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from sqlite3 import connect
from time import perf_counter
from typing import Any, NamedTuple

import grpc
from tests import http2
from tests.build import NOON_US, Parents, new_interaction, new_parents, new_session
from tests.keyring import Key, new_key
from tests.serving import Served, served

from bench.load import Load, Request, run
from bench.processes import python, rival
from bench.rivals.answers import DEFAULT, write_answers
from interaction_svc.store.rows import COLUMNS, Row, row_of
from interaction_svc.store.sqlite import connection, migrations
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as pb

AT_ONCE = 64
CONNECTIONS = 8
BATCH = 1000
SESSIONS = 50
"""How many Sessions the Interactions of a batch are of."""
PAGE = 50
WARM_ROWS = 5_000
WARM_SECONDS = 1.0

_RECORD = "/interaction_svc.v1.IngestService/RecordInteraction"
_STREAM = "/interaction_svc.v1.IngestService/RecordInteractions"
_LIST = "/interaction_svc.v1.InteractionService/ListInteractions"
_MOST_PER_SECOND = 30_000
_MARK = "c0ffee00"
"""Stands in SIDs where every batch, or request, has digits of its own."""
_ODD = 0x9E3779B1


class Ratio(NamedTuple):
    """One round: what was measured, and what it is related to, in the same unit."""

    measured: float
    base: float
    transport: float | None = None
    """What the transport alone does, where that is known."""

    @property
    def value(self) -> float:
        """The ratio."""
        return self.measured / self.base

    @property
    def floor(self) -> float | None:
        """The ratio that there is no getting past."""
        return None if self.transport is None else self.transport / self.base


class Memory(NamedTuple):
    """Resident memory of a server around a stream, in MiB."""

    before: float
    quarters: tuple[float, ...]
    """The most there was during each quarter of the stream."""

    @property
    def most(self) -> float:
        """The most there was."""
        return max(self.quarters)


def concurrent_records(rounds: int, seconds: float) -> list[Ratio]:
    """Measure durable RecordInteraction calls a second: 64 callers at once, and one at a time.

    And of 64 callers whose calls do nothing: where the disk is quick, they are hardly more.
    """
    with _writable() as (server, key, account), _empty(account) as empty_address:

        def per_second(address: str, at_once: int, seconds: float) -> float:
            requests = tuple(_records(account, key, int(seconds * _MOST_PER_SECOND)))
            load = Load(
                address,
                requests,
                seconds,
                min(CONNECTIONS, at_once),
                at_once=at_once,
                once_each=True,
            )
            before = _rows_in(server.store)
            answered = run(load)
            assert not answered.refused
            assert answered.offered < len(requests)
            stored = len(answered.ok) if address == server.grpc_address else 0
            assert _rows_in(server.store) == before + stored
            return sum(ended <= seconds for ended, _ in answered.ok) / seconds

        def one(seconds: float) -> Ratio:
            return Ratio(
                base=per_second(server.grpc_address, 1, seconds),
                measured=per_second(server.grpc_address, AT_ONCE, seconds),
                transport=per_second(empty_address, AT_ONCE, seconds),
            )

        one(WARM_SECONDS)
        return [one(seconds) for _ in range(rounds)]


def streamed_records(rounds: int, rows: int) -> list[Ratio]:
    """Measure rows a second: a bulk stream, and `executemany` of the same in one transaction.

    The latter with our schema, our pragmas, and rows that were made beforehand.
    """
    with _writable() as (server, key, account):
        rival = server.store.with_name("rival.db")
        db = connection.connect(rival, create=True)
        migrations.migrate(db)
        places = ", ".join("?" * len(Row._fields))
        insert = f"INSERT INTO interactions ({COLUMNS}) VALUES ({places})"  # noqa: S608 our own

        def one(rows: int) -> Ratio:
            batches = list(_batches(account, rows // BATCH))
            made = [
                row_of(interaction)
                for batch in batches
                for interaction in ingest_pb.RecordInteractionsRequest.FromString(
                    batch
                ).interactions
            ]
            begun = perf_counter()
            with connection.transaction(db):
                db.executemany(insert, made)
            executed = perf_counter() - begun
            begun = perf_counter()
            assert _stream(server.grpc_address, key, batches) == rows
            streamed = perf_counter() - begun
            assert _content(server.store) == _content(rival)
            return Ratio(rows / streamed, rows / executed)

        try:
            one(WARM_ROWS)
            return [one(rows) for _ in range(rounds)]
        finally:
            db.close()


def reads_while_ingesting(rounds: int, seconds: float, at_once: int = 1) -> list[Ratio]:
    """Measure the p99 of List 50, in seconds: beside a bulk stream at full speed, and idle."""
    with _writable() as (server, key, account):
        reader = new_key(server.store, "read", account)
        parents = new_parents(account_sid=account)
        session = ingest_pb.RecordInteractionsRequest(interactions=new_session(parents, PAGE))
        assert _stream(server.grpc_address, key, [session.SerializeToString()]) == PAGE
        wanted = pb.ListInteractionsRequest(
            service_sid=parents.service_sid, session_sid=parents.session_sid, page_size=PAGE
        )
        request = _request(_LIST, reader, wanted.SerializeToString())
        with grpc.insecure_channel(server.grpc_address) as channel:
            call: Any = channel.unary_unary(_LIST)
            answer = call(wanted.SerializeToString(), metadata=_metadata(reader))
        assert len(pb.ListInteractionsResponse.FromString(answer).interactions) == PAGE

        def p99(seconds: float) -> float:
            answered = run(Load(server.grpc_address, (request,), seconds, at_once, at_once=at_once))
            assert not answered.refused
            took = sorted(took for _, took in answered.ok)
            return took[int(len(took) * 0.99)]

        p99(WARM_SECONDS)
        ratios = []
        for _ in range(rounds):
            idle = p99(seconds)
            with _ingesting(server, key, account):
                ratios.append(Ratio(p99(seconds), idle))
        return ratios


def stream_memory(rows: int) -> Memory:
    """Measure a server's resident memory around and during a bulk stream of as many rows."""
    with _writable() as (server, key, account):
        assert _stream(server.grpc_address, key, _batches(account, WARM_ROWS // BATCH))
        process = Path(f"/proc/{server.process.pid}")
        before = _mib(process, "VmRSS")
        quarters = []
        for _ in range(4):
            (process / "clear_refs").write_text("5")  # the peak begins anew
            batches = _batches(account, rows // 4 // BATCH)
            assert _stream(server.grpc_address, key, batches) == rows // 4 // BATCH * BATCH
            quarters.append(_mib(process, "VmHWM"))
        return Memory(before, tuple(quarters))


@contextmanager
def _writable() -> Iterator[tuple[Served, Key, str]]:
    """Serve, with a key of the role ingest, and give the account that it writes for."""
    account = new_parents().account_sid
    with tempfile.TemporaryDirectory(dir=_disk()) as name:
        folder = Path(name)
        key = new_key(folder / "interactions.db", "ingest", account)
        with served(folder) as server:
            yield server, key, account


@contextmanager
def _empty(account: str) -> Iterator[str]:
    """Serve empty RPCs, whose answers are as long as those to a record; give the address."""
    stored = new_interaction(new_parents(account_sid=account))
    answer = ingest_pb.RecordInteractionResponse(
        interaction=stored, outcome=ingest_pb.RECORD_OUTCOME_CREATED
    )
    with tempfile.TemporaryDirectory() as name:
        answers = Path(name) / "answers.json"
        write_answers(answers, {DEFAULT: answer.SerializeToString()})
        with rival(*python("bench.rivals.empty_grpc", "--answers", str(answers))) as (_, address):
            yield address


def _disk() -> Path:
    """Give a folder on a disk: where files are in memory there is no flush to be shared."""
    folder = Path(tempfile.gettempdir()).resolve()
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    under = [(where, kind) for _, where, kind, *_ in mounts if folder.is_relative_to(where)]
    return Path.cwd() if max(under)[1] == "tmpfs" else folder


def _records(account: str, key: Key, count: int) -> Iterator[Request]:
    templates = [
        _request(
            _RECORD, key, ingest_pb.RecordInteractionRequest(interaction=made).SerializeToString()
        )
        for made in _marked([new_parents(account_sid=account) for _ in range(SESSIONS)], SESSIONS)
    ]
    for number, digits in enumerate(_digits(count)):
        template = templates[number % len(templates)]
        yield template._replace(data=template.data.replace(_MARK.encode(), digits))


def _batches(account: str, count: int) -> Iterator[bytes]:
    """Give requests of a bulk stream: new Interactions of new Sessions, which take turns.

    A batch is another's bytes with other digits in its SIDs, so that it costs next to nothing.
    """
    sessions = [
        parents._replace(session_sid=parents.session_sid[:-8] + _MARK)
        for parents in (new_parents(account_sid=account) for _ in range(SESSIONS))
    ]
    template = ingest_pb.RecordInteractionsRequest(
        interactions=_marked(sessions, BATCH)
    ).SerializeToString()
    for digits in _digits(count):
        yield template.replace(_MARK.encode(), digits)


def _marked(sessions: list[Parents], count: int) -> Iterator[Any]:
    for number in range(count):
        made = new_interaction(sessions[number % len(sessions)], NOON_US + number * 1000)
        made.sid = f"KI{_MARK}{made.sid[10:]}"
        yield made


def _digits(count: int) -> Iterator[bytes]:
    """Give digits that are different each time, and in no order."""
    for number in range(count):
        yield b"%08x" % (number * _ODD % 2**32)


def _request(method: str, key: Key, data: bytes) -> Request:
    return Request(http2.call_headers(method, _metadata(key)), http2.message(data))


def _metadata(key: Key) -> tuple[tuple[str, str], ...]:
    return (("authorization", key.bearer),)


def _stream(address: str, key: Key, batches: Iterable[bytes]) -> int:
    """Stream batches; give how many Interactions are new, and fail if any isn't."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.stream_unary(_STREAM)
        answer = call(iter(batches), metadata=_metadata(key))
    counts = ingest_pb.RecordInteractionsResponse.FromString(answer)
    assert counts == ingest_pb.RecordInteractionsResponse(created=counts.created), counts
    return counts.created


@contextmanager
def _ingesting(server: Served, key: Key, account: str) -> Iterator[None]:
    """Stream at full speed during the block, from a process of its own."""
    spawning = get_context("spawn")
    over, begun = spawning.Event(), spawning.Event()
    before = _rows_in(server.store)
    process = spawning.Process(
        target=_stream_until, args=(server.grpc_address, key, account, begun, over)
    )
    process.start()
    try:
        assert begun.wait(30)
        yield
        assert process.is_alive()
    finally:
        over.set()
        process.join()
    assert process.exitcode == 0
    assert _rows_in(server.store) > before


def _stream_until(address: str, key: Key, account: str, begun: Event, over: Event) -> None:
    def batches() -> Iterator[bytes]:
        for number, batch in enumerate(_batches(account, 2**32)):
            if over.is_set():
                return
            if number == WARM_ROWS // BATCH:
                begun.set()
            yield batch

    _stream(address, key, batches())


def _rows_in(store: Path) -> int:
    return _content(store)[0]


def _content(store: Path) -> tuple[int, int]:
    """Count rows, and the bytes of their frames."""
    db = connect(store)
    try:
        count, size = db.execute(
            "SELECT count(*), total(length(frame)) FROM interactions"
        ).fetchone()
        return count, int(size)
    finally:
        db.close()


def _mib(process: Path, name: str) -> float:
    status = (process / "status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.writing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: under 30 seconds")
    parser.add_argument("--memory", type=int, metavar="ROWS", help="a stream of as many, alone")
    given = parser.parse_args()
    if given.memory:
        memory = stream_memory(given.memory)
        quarters = ", ".join(f"{mib:.0f}" for mib in memory.quarters)
        print(f"resident MiB: {memory.before:.0f} before; at most {quarters} in each quarter")
        return
    rounds, seconds, rows = (2, 1.0, 10_000) if given.quick else (5, 4.0, 50_000)
    print(f"{os.cpu_count()} cores for server and clients together\n")
    print("| | target | median | from, to | floor | measured | related to |\n" + "|---" * 7 + "|")
    _print_row("64 records at once ÷ one", "≥ 6", concurrent_records(rounds, seconds), "/s")
    _print_row("stream ÷ executemany", "≥ 0.35", streamed_records(rounds, rows), " rows/s")
    ingesting = [
        Ratio(ratio.measured * 1e6, ratio.base * 1e6)
        for ratio in reads_while_ingesting(rounds, seconds)
    ]
    _print_row("List 50 p99 while ingesting ÷ idle", "≤ 3", ingesting, " µs")


def _print_row(name: str, target: str, ratios: list[Ratio], unit: str) -> None:
    values = sorted(ratio.value for ratio in ratios)
    measured = statistics.median(ratio.measured for ratio in ratios)
    base = statistics.median(ratio.base for ratio in ratios)
    floors = [ratio.floor for ratio in ratios if ratio.floor is not None]
    floor = f"{statistics.median(floors):.2f}" if floors else ""
    print(
        f"| {name} | {target} | {statistics.median(values):.2f} | {values[0]:.2f},"
        f" {values[-1]:.2f} | {floor} | {measured:,.0f}{unit} | {base:,.0f}{unit} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
