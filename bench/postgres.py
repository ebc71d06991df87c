"""`make bench-postgres`: reads and records on PostgreSQL, compared with SQLite in the same run.

It starts a new PostgreSQL on this machine, with durable commits, and the service on it and on a
SQLite file. It measures the processor time of the service and of the database's processes for each
request, in alternating rounds. It also compares the throughput of two servers on one database with
that of one. Clients, servers and database share the machine.
"""

import argparse
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from testing import http2
from testing.api_keys import IssuedKey, new_key
from testing.build import Parents, new_interaction, new_parents, new_session
from testing.postgres import Cluster, running_cluster
from testing.process import Served, served
from testing.requests import get_request, list_request

from bench.load import Load, Request, run
from bench.processes import cpu_seconds
from bench.report import machine, markdown
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb

SIZES = (50, 1000)
AT_ONCE = 16
_CONNECTIONS = 4
_MOST_RECORDS_A_SECOND = 20_000
_DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
_READING = "/interaction_svc.v1.InteractionService"
_INGEST = "/interaction_svc.v1.IngestService"
_MARK = "c0ffee00"
"""A placeholder in a SID that is replaced by other digits in each record."""


class Cost(NamedTuple):
    """Processor time of a request, in microseconds."""

    server: float
    database: float


class _Contender(NamedTuple):
    name: str
    server: Served
    database: Cluster | None
    loads: dict[str, Load]


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.postgres", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each case in a round")
    parser.add_argument("--into", type=Path, required=True, help="the file to write to")
    given = parser.parse_args()
    report = "\n".join(measured(given.rounds, given.seconds))
    print(report)
    given.into.parent.mkdir(parents=True, exist_ok=True)
    given.into.write_text(report)


def measured(rounds: int, seconds: float) -> list[str]:
    """Return the parts of the report."""
    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(**_DURABLE, shared_buffers="256MB"))
        url = cluster.url(cluster.new_database())
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3)]
        on_file = stack.enter_context(served(folders[0]))
        on_postgres = stack.enter_context(served(folders[1], "--store", url))
        beside = stack.enter_context(served(folders[2], "--store", url))
        parents = new_parents()
        session = new_session(parents, max(SIZES) + 200)
        contenders = []
        for name, server, store, database in (
            ("SQLite", on_file, on_file.store, None),
            ("PostgreSQL", on_postgres, url, cluster),
        ):
            key = new_key(store, "admin")
            _record(server, key, session)
            loads = _loads(server, key, parents, session, rounds, seconds)
            contenders.append(_Contender(name, server, database, loads))
        costs = _costs(contenders, rounds, seconds)
        version = cluster.run("postgres", "--version").strip()
        throughput = _two_servers(contenders[1].loads["Get"], beside, rounds, seconds)
    return [
        f"{machine()}, {version}. {rounds} rounds that take turns, {AT_ONCE} at once.\n",
        "## Processor time of a request, in microseconds\n",
        _table(costs),
        "## Two servers on one database against one\n",
        throughput,
    ]


def _loads(
    server: Served,
    key: IssuedKey,
    parents: Parents,
    session: list[Any],
    rounds: int,
    seconds: float,
) -> dict[str, Load]:
    metadata = (("authorization", key.bearer),)
    reads: dict[str, list[Any]] = {"Get": [get_request(each) for each in session[:200]]}
    for size in SIZES:
        reads[f"List {size}"] = [list_request(parents, page_size=size)]
    loads = {}
    for case, asked in reads.items():
        method = f"{_READING}/{'GetInteraction' if case == 'Get' else 'ListInteractions'}"
        requests = tuple(
            Request(
                http2.call_headers(method, metadata),
                http2.message(each.SerializeToString()),
                len(_call(server, method, each, metadata)),
            )
            for each in asked
        )
        loads[case] = _load(server, requests, seconds)
    template = new_interaction(parents)
    template.sid = f"KI{_MARK}{template.sid[10:]}"
    message = http2.message(
        ingest_pb.RecordInteractionRequest(interaction=template).SerializeToString()
    )
    method = f"{_INGEST}/RecordInteraction"
    headers = http2.call_headers(method, metadata)
    most = int(_MOST_RECORDS_A_SECOND * seconds * (rounds + 1))
    records = tuple(
        Request(headers, message.replace(_MARK.encode(), b"%08x" % number))
        for number, _ in zip(count(), range(most), strict=False)
    )
    loads["Record"] = replace(_load(server, records, seconds), once_each=True)
    return loads


def _load(server: Served, requests: tuple[Request, ...], seconds: float) -> Load:
    return Load(server.grpc_address, requests, seconds, _CONNECTIONS, at_once=AT_ONCE)


def _costs(
    contenders: list[_Contender], rounds: int, seconds: float
) -> dict[tuple[str, str], list[Cost]]:
    costs: dict[tuple[str, str], list[Cost]] = {}
    for number in range(rounds + 1):  # the first one warms up
        for case in contenders[0].loads:
            for contender in contenders:
                load = contender.loads[case]
                if load.once_each:  # each round uses another part of them
                    part = len(load.requests) // (rounds + 1)
                    load = replace(load, requests=load.requests[number * part :][:part])
                cost = _cost(contender, load)
                if number:
                    costs.setdefault((case, contender.name), []).append(cost)
    return costs


def _cost(contender: _Contender, load: Load) -> Cost:
    process = contender.server.process.pid
    of_server, of_database = cpu_seconds(process), _cpu_of(contender.database)
    answered = run(load)
    if answered.refused or not answered.ok:
        raise RuntimeError(f"{contender.name}: {answered.refused}")
    each = 1e6 / len(answered.ok)
    return Cost(
        (cpu_seconds(process) - of_server) * each,
        (_cpu_of(contender.database) - of_database) * each,
    )


def _cpu_of(database: Cluster | None) -> float:
    """Return the processor time of a database's processes, which last as long as the pool."""
    if database is None:
        return 0.0
    parent = database.process_id
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sum(map(cpu_seconds, [parent, *map(int, children)]))


def _two_servers(load: Load, beside: Served, rounds: int, seconds: float) -> str:
    """Compare the throughput of two servers, each with half of the clients, with that of one."""
    spread = [load, replace(load, address=beside.grpc_address)]
    with ProcessPoolExecutor(2, get_context("spawn")) as clients:

        def per_second(loads: list[Load]) -> float:
            parts = list(clients.map(run, loads))
            assert not any(part.refused for part in parts)
            return sum(len(part.ok) for part in parts) / seconds

        per_second(spread)
        found = [(per_second(spread), per_second([load, load])) for _ in range(rounds)]
    ratios = sorted(two / one for two, one in found)
    two, one = (statistics.median(each) for each in zip(*found, strict=True))
    return markdown([
        ("", "median", "from, to", "two", "one"),
        ("Gets a second", f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}, {ratios[-1]:.2f}",
         f"{two:,.0f}/s", f"{one:,.0f}/s"),
    ])  # fmt: skip


def _table(costs: dict[tuple[str, str], list[Cost]]) -> str:
    rows: list[tuple[str, ...]] = [
        ("", "SQLite", "PostgreSQL", "÷", "from, to", "and the database's own")
    ]
    for case in dict.fromkeys(case for case, _ in costs):
        files, databases = costs[case, "SQLite"], costs[case, "PostgreSQL"]
        ratios = sorted(
            there.server / here.server for here, there in zip(files, databases, strict=True)
        )
        rows.append((
            case,
            f"{statistics.median(cost.server for cost in files):,.0f}",
            f"{statistics.median(cost.server for cost in databases):,.0f}",
            f"**{statistics.median(ratios):.2f}**",
            f"{ratios[0]:.2f}, {ratios[-1]:.2f}",
            f"{statistics.median(cost.database for cost in databases):,.0f}",
        ))  # fmt: skip
    return markdown(rows)


def _record(server: Served, key: IssuedKey, interactions: list[Any]) -> None:
    request = ingest_pb.RecordInteractionsRequest(interactions=interactions[:1000])
    rest = ingest_pb.RecordInteractionsRequest(interactions=interactions[1000:])
    with grpc.insecure_channel(server.grpc_address) as channel:
        record: Any = channel.stream_unary(f"{_INGEST}/RecordInteractions")
        answer = record(
            (each.SerializeToString() for each in (request, rest)),
            metadata=(("authorization", key.bearer),),
        )
    counts = ingest_pb.RecordInteractionsResponse.FromString(answer)
    assert counts.created == len(interactions)


def _call(server: Served, method: str, asked: Any, metadata: http2.Pairs) -> bytes:
    with grpc.insecure_channel(server.grpc_address) as channel:
        ask: Any = channel.unary_unary(method)
        answer: bytes = ask(asked.SerializeToString(), metadata=metadata)
        return answer


if __name__ == "__main__":
    main()
