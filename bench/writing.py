"""The cost of writes, and their effect on concurrent reads.

`python -m bench.writing` compares, in alternating rounds of one run on servers with default
settings and keys:

- records of 64 concurrent callers with those of one caller, on both engines of gRPC, on this disk
  and on a slower one; the bound is the throughput of 64 callers of an empty RPC;
- the bulk stream with `executemany` of the same rows;
- a List of 50 during a bulk stream with one on an idle server.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import grpc
from testing.api_keys import new_key
from testing.build import new_interaction, new_parents, new_session

from bench.flushing import slower_by
from bench.load import Load, run
from bench.processes import ENGINES, GRPCIO, H2CORN, python, resident_mib, rival
from bench.records import (
    BATCH,
    WARM_ROWS,
    batches_of,
    content_of,
    ingesting,
    metadata_of,
    record_requests,
    request_of,
    rows_in,
    stream,
    writable,
)
from bench.rivals.answers import DEFAULT, write_answers
from interaction_svc.store.rows import row_of
from interaction_svc.store.sqlite import connection, migrations, transactions
from interaction_svc.store.sqlite.row_format import COLUMNS, Columns, pack_row
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as pb

AT_ONCE = 64
CONNECTIONS = 8
SLOW_FLUSH_MS = 2
"""The time of a flush on network disks."""
PAGE = 50
WARM_SECONDS = 1.0

_LIST = "/interaction_svc.v1.InteractionService/ListInteractions"
_MOST_PER_SECOND = 30_000


class Ratio(NamedTuple):
    """The measured value and the baseline of one round, in the same unit."""

    measured: float
    base: float
    transport: float | None = None
    """The throughput of the transport alone, where it was measured."""

    @property
    def value(self) -> float:
        """The ratio."""
        return self.measured / self.base

    @property
    def floor(self) -> float | None:
        """The bound of the ratio, which the transport sets."""
        return None if self.transport is None else self.transport / self.base


class Memory(NamedTuple):
    """Resident memory of a server around a stream, in MiB."""

    before: float
    quarters: tuple[float, ...]
    """The peak in each quarter of the stream."""

    @property
    def most(self) -> float:
        """The peak of the whole stream."""
        return max(self.quarters)


def concurrent_records(
    rounds: int, seconds: float, env: dict[str, str] | None = None
) -> dict[str, list[Ratio]]:
    """Measure durable RecordInteraction calls a second, of 64 concurrent callers and of one.

    Each engine has a server and a store. Also measures 64 callers of an empty RPC on grpcio; on a
    fast disk these are hardly faster than 64 records. `env` is the environment of the service only.
    """
    with ExitStack() as stack:
        served = {
            engine: stack.enter_context(writable("--grpc-engine", engine, env=env))
            for engine in ENGINES
        }
        empty_address = stack.enter_context(_empty(served[GRPCIO][2]))

        def per_second(engine: str, at_once: int, seconds: float, address: str = "") -> float:
            server, key, account = served[engine]
            requests = tuple(record_requests(account, key, int(seconds * _MOST_PER_SECOND)))
            load = Load(
                address or server.grpc_address,
                requests,
                seconds,
                min(CONNECTIONS, at_once),
                at_once=at_once,
                once_each=True,
            )
            before = rows_in(server.store)
            answered = run(load)
            assert not answered.refused
            assert answered.offered < len(requests)
            assert rows_in(server.store) == before + (0 if address else len(answered.ok))
            return sum(ended <= seconds for ended, _ in answered.ok) / seconds

        def one(seconds: float) -> dict[str, Ratio]:
            transport = per_second(GRPCIO, AT_ONCE, seconds, empty_address)
            return {
                engine: Ratio(
                    base=per_second(engine, 1, seconds),
                    measured=per_second(engine, AT_ONCE, seconds),
                    transport=transport if engine == GRPCIO else None,
                )
                for engine in ENGINES
            }

        one(WARM_SECONDS)
        found = [one(seconds) for _ in range(rounds)]
    return {engine: [each[engine] for each in found] for engine in ENGINES}


def concurrent_records_flushed_slowly(rounds: int, seconds: float) -> dict[str, list[Ratio]] | None:
    """Measure `concurrent_records` with flushes that take SLOW_FLUSH_MS longer.

    Return None if there is no C compiler.
    """
    with tempfile.TemporaryDirectory() as name:
        env = slower_by(SLOW_FLUSH_MS, Path(name))
        return None if env is None else concurrent_records(rounds, seconds, env)


def streamed_records(rounds: int, rows: int) -> list[Ratio]:
    """Measure the rows a second of a bulk stream, and of `executemany` in one transaction.

    `executemany` has the service's schema and pragmas, and rows that are packed beforehand.
    """
    with writable() as (server, key, account):
        rival = server.store.with_name("rival.db")
        db = connection.connect(rival, create=True)
        migrations.migrate(db)
        places = ", ".join("?" * len(Columns._fields))
        insert = f"INSERT INTO interactions ({COLUMNS}) VALUES ({places})"  # noqa: S608 our own

        def one(rows: int) -> Ratio:
            batches = list(batches_of(account, rows // BATCH))
            made = [
                pack_row(row_of(interaction))
                for batch in batches
                for interaction in ingest_pb.RecordInteractionsRequest.FromString(
                    batch
                ).interactions
            ]
            begun = perf_counter()
            with transactions.transaction(db):
                db.executemany(insert, made)
            executed = perf_counter() - begun
            begun = perf_counter()
            assert stream(server.grpc_address, key, batches) == rows
            streamed = perf_counter() - begun
            assert content_of(server.store) == content_of(rival)
            return Ratio(rows / streamed, rows / executed)

        try:
            one(WARM_ROWS)
            return [one(rows) for _ in range(rounds)]
        finally:
            db.close()


def reads_while_ingesting(rounds: int, seconds: float, at_once: int = 1) -> list[Ratio]:
    """Measure the p99 of List 50, in seconds, during a bulk stream at full speed and when idle."""
    with writable() as (server, key, account):
        reader = new_key(server.store, "read", account)
        parents = new_parents(account_sid=account)
        session = ingest_pb.RecordInteractionsRequest(interactions=new_session(parents, PAGE))
        assert stream(server.grpc_address, key, [session.SerializeToString()]) == PAGE
        wanted = pb.ListInteractionsRequest(
            service_sid=parents.service_sid, session_sid=parents.session_sid, page_size=PAGE
        )
        request = request_of(_LIST, reader, wanted.SerializeToString())
        with grpc.insecure_channel(server.grpc_address) as channel:
            call: Any = channel.unary_unary(_LIST)
            answer = call(wanted.SerializeToString(), metadata=metadata_of(reader))
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
            with ingesting(server, key, account):
                ratios.append(Ratio(p99(seconds), idle))
        return ratios


def stream_memory(rows: int) -> Memory:
    """Measure a server's resident memory before and during a bulk stream of `rows` rows."""
    with writable() as (server, key, account):
        assert stream(server.grpc_address, key, batches_of(account, WARM_ROWS // BATCH))
        pid = server.process.pid
        before = resident_mib(pid)
        quarters = []
        for _ in range(4):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
            batches = batches_of(account, rows // 4 // BATCH)
            assert stream(server.grpc_address, key, batches) == rows // 4 // BATCH * BATCH
            quarters.append(resident_mib(pid, "VmHWM"))
        return Memory(before, tuple(quarters))


@contextmanager
def _empty(account: str) -> Iterator[str]:
    """Serve empty RPCs with responses as long as those of a record, and yield the address."""
    stored = new_interaction(new_parents(account_sid=account))
    answer = ingest_pb.RecordInteractionResponse(
        interaction=stored, outcome=ingest_pb.RECORD_OUTCOME_CREATED
    )
    with tempfile.TemporaryDirectory() as name:
        answers = Path(name) / "answers.json"
        write_answers(answers, {DEFAULT: answer.SerializeToString()})
        with rival(*python("bench.rivals.empty_grpc", "--answers", str(answers))) as (_, address):
            yield address


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
    targets = {GRPCIO: "≥ 3", H2CORN: "≥ 5"}
    for engine, ratios in concurrent_records(rounds, seconds).items():
        _print_row(f"{engine}: 64 records at once ÷ one", targets[engine], ratios, "/s")
    slowly = concurrent_records_flushed_slowly(rounds, seconds)
    for engine, ratios in (slowly or {}).items():
        longer = f"{engine}: 64 records at once ÷ one, a flush {SLOW_FLUSH_MS} ms longer"
        _print_row(longer, "≥ 6", ratios, "/s")
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
