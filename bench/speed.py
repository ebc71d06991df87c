"""`make bench`: the cost of the service, compared with the transport alone and with rivals.

It starts `interaction-svc serve` with default settings and a key, and the rivals, on loopback. It
measures them in alternating rounds. Only ratios within a run are meaningful, because the machine
may be shared, and the clients use the same cores as the servers.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from bench import memory, parts, reading, scaling, sizes, throughput, writing
from bench.processes import ENGINES, GRPCIO, H2CORN
from bench.reading import (
    CONNECT,
    EMPTY,
    FASTAPI,
    GET,
    GO,
    ON_H2CORN,
    OURS,
    PLAIN,
    SIZES,
    UNSEEN,
    Costs,
    case_of,
)
from bench.report import Measure, machine, markdown, plot, table_of

Targets = dict[str, tuple[float | None, float | None]]
_CONTENDERS = {GRPCIO: OURS, H2CORN: ON_H2CORN}
_GRPC_TARGETS: dict[str, Targets] = {
    OURS: {
        GET: (1.45, 1.3),
        case_of(10): (1.8, 1.6),
        case_of(50): (1.8, 1.5),
        case_of(1000): (3.5, 2.5),
    },
    ON_H2CORN: {
        GET: (0.5, 0.35),
        case_of(10): (0.7, 0.5),
        case_of(50): (0.7, 0.45),
        case_of(1000): (3.5, 2),
    },
}
_REST_TARGETS: Targets = {
    GET: (1.6, 1.3),
    case_of(50): (4, 2.5),
    case_of(1000): (10, 6),
    UNSEEN: (25, 15),
}
_WRITE_TARGETS = {GRPCIO: (3, 5), H2CORN: (5, 8)}
_SLOW_WRITE_TARGETS = {GRPCIO: (6, 10), H2CORN: (6, 10)}


def main() -> None:
    """Run all benchmarks, print the report, and write it into a folder."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in some 3 minutes, less exact")
    parser.add_argument("--into", type=Path, required=True, help="the folder to write to")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    report = _measured(given.into, quick=given.quick)
    print(report)
    (given.into / "run.md").write_text(report)


def _measured(folder: Path, *, quick: bool) -> str:
    rounds, seconds = (3, 0.15) if quick else (9, 0.5)
    table_sizes = (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000)
    over_grpc, over_rest = reading.read_costs(rounds, seconds)
    by_size = sizes.by_table_size(rounds, seconds, table_sizes)
    targets = [
        *_of_reads(over_grpc, over_rest),
        *_of_sizes(by_size, rounds, seconds),
        *_of_writes(rounds=2 if quick else 5, seconds=1.0 if quick else 4.0),
    ]
    plot(folder / "ratios.svg", _by_page_size(over_grpc), by_size)
    parts = [
        f"{machine()}. {rounds} rounds that take turns.\n",
        "## Targets\n",
        table_of(targets),
        "## Server CPU of a request, in microseconds\n",
        _contenders("gRPC", over_grpc, (EMPTY, OURS, ON_H2CORN, PLAIN, GO)),
        _contenders("REST", over_rest, (EMPTY, OURS, CONNECT, FASTAPI)),
        "## Where the time goes\n",
        _parts(1.0 if quick else 6.0),
        f"## Throughput of {throughput.AT_ONCE} callers\n",
        _throughput(rounds, seconds),
        "## Two workers against one\n",
        _workers(rounds, seconds),
        "## Memory\n",
        markdown(
            [("", ""), *memory.memory(1.5 if quick else 30.0, 20_000 if quick else 1_000_000)]
        ),
    ]
    return "\n".join(parts)


def _of_reads(over_grpc: Costs, over_rest: Costs) -> Iterable[Measure]:
    for engine, contender in _CONTENDERS.items():
        for case, (must, aim) in _GRPC_TARGETS[contender].items():
            floor = statistics.median(_ratios(over_grpc, (case, EMPTY), (GET, EMPTY)))
            ratios = _ratios(over_grpc, (case, contender), (GET, EMPTY))
            yield Measure(
                f"{engine}: {case} ÷ empty Get", ratios,
                _us(over_grpc[case, contender]), _us(over_grpc[GET, EMPTY]), must, aim,
                floor=floor if engine == GRPCIO else None,
            )  # fmt: skip
    if (GET, GO) in over_grpc:
        for case in _GRPC_TARGETS[OURS]:
            yield Measure(
                f"{GO}: {case} ÷ empty Get", _ratios(over_grpc, (case, GO), (GET, EMPTY)),
                _us(over_grpc[case, GO]), _us(over_grpc[GET, EMPTY]),
            )  # fmt: skip
    for case, (must, aim) in _REST_TARGETS.items():
        yield Measure(
            f"REST {case} ÷ empty route, same bytes",
            _ratios(over_rest, (case, OURS), (case, EMPTY)),
            _us(over_rest[case, OURS]), _us(over_rest[case, EMPTY]), must, aim, floor=1.0,
        )  # fmt: skip

    for case, must, aim in ((GET, 1.2, 1.0), (case_of(50), None, None)):
        yield Measure(
            f"Connect JSON {case} ÷ REST {case}",
            _ratios(over_rest, (case, CONNECT), (case, OURS)),
            _us(over_rest[case, CONNECT]), _us(over_rest[case, OURS]), must, aim,
        )  # fmt: skip


def _of_sizes(by_size: dict[int, list[float]], rounds: int, seconds: float) -> Iterable[Measure]:
    small, large = min(by_size), max(by_size)
    yield Measure(
        f"Get at {large:,} rows ÷ at {small:,}",
        [big / little for big, little in zip(by_size[large], by_size[small], strict=True)],
        _us(by_size[large]), _us(by_size[small]), 1.3, 1.15,
    )  # fmt: skip
    pages = sizes.by_page(rounds, seconds)
    yield _of_rounds("last page ÷ first page of 100,000", pages, 1.25, 1.1, _microseconds)


def _of_writes(rounds: int, seconds: float) -> Iterable[Measure]:
    records = "64 durable records at once ÷ one"
    at_once = writing.concurrent_records(rounds, seconds)
    slowly = writing.concurrent_records_flushed_slowly(rounds, seconds)
    for engine in ENGINES:
        yield _of_rounds(
            f"{engine}: {records}", at_once[engine], *_WRITE_TARGETS[engine], _per_second,
            at_least=True,
        )  # fmt: skip
        if slowly is not None:
            yield _of_rounds(
                f"{engine}: {records}, each flush {writing.SLOW_FLUSH_MS} ms longer",
                slowly[engine], *_SLOW_WRITE_TARGETS[engine], _per_second, at_least=True,
            )  # fmt: skip
    yield _of_rounds(
        "bulk stream ÷ executemany", writing.streamed_records(rounds, int(seconds * 12) * 1000),
        0.35, 0.5, _per_second, at_least=True,
    )  # fmt: skip
    yield _of_rounds(
        "List 50 p99 while ingesting ÷ idle", writing.reads_while_ingesting(rounds, seconds), 3, 2,
        lambda took: _microseconds(took * 1e6),
    )  # fmt: skip


def _of_rounds(
    name: str,
    rounds: list[writing.Ratio],
    must: float,
    aim: float,
    shown: Callable[[float], str],
    *,
    at_least: bool = False,
) -> Measure:
    floors = [one.floor for one in rounds if one.floor is not None]
    return Measure(
        name,
        [one.value for one in rounds],
        shown(statistics.median(one.measured for one in rounds)),
        shown(statistics.median(one.base for one in rounds)),
        must,
        aim,
        at_least,
        statistics.median(floors) if floors else None,
    )


def _throughput(rounds: int, seconds: float) -> str:
    rows = [("", "Gets a second", "from, to")]
    for name, found in throughput.gets_per_second(rounds, seconds).items():
        low, high = map(_per_second, (min(found), max(found)))
        rows.append((name, _per_second(statistics.median(found)), f"{low}, {high}"))
    return markdown(rows)


def _workers(rounds: int, seconds: float) -> str:
    per_second, cpu = scaling.two_workers(rounds, seconds)
    rows = [("", "median", "from, to", "two", "one")]
    for name, ratios, shown in (
        ("Gets a second", per_second, _per_second),
        ("CPU of a Get", cpu, _microseconds),
    ):
        values = sorted(ratio.value for ratio in ratios)
        rows.append((
            name, f"{statistics.median(values):.2f}", f"{values[0]:.2f}, {values[-1]:.2f}",
            shown(statistics.median(ratio.measured for ratio in ratios)),
            shown(statistics.median(ratio.base for ratio in ratios)),
        ))  # fmt: skip
    return markdown(rows)


def _parts(seconds: float) -> str:
    found = parts.parts(seconds)
    if found is None:
        return "Left out: this user may not look into another process (py-spy needs ptrace).\n"
    return markdown(found)


def _contenders(transport: str, costs: Costs, names: tuple[str, ...]) -> str:
    there = [name for name in names if (GET, name) in costs]
    cases = [case for case, name in costs if name == EMPTY]
    return markdown(
        [
            (transport, *there),
            *(
                (case, *(f"{statistics.median(costs[case, name]):,.0f}" for name in there))
                for case in cases
            ),
        ]
    )


def _by_page_size(costs: Costs) -> dict[str, dict[int, float]]:
    of_size = {1: GET, **{size: case_of(size) for size in SIZES}}
    return {
        name: {
            size: statistics.median(_ratios(costs, (case, name), (GET, EMPTY)))
            for size, case in of_size.items()
        }
        for name in (EMPTY, OURS, ON_H2CORN, PLAIN, GO)
        if (GET, name) in costs
    }


def _ratios(costs: Costs, measured: tuple[str, str], base: tuple[str, str]) -> list[float]:
    return [cost / of_base for cost, of_base in zip(costs[measured], costs[base], strict=True)]


def _us(costs: list[float]) -> str:
    return _microseconds(statistics.median(costs))


def _microseconds(value: float) -> str:
    return f"{value:,.0f} µs"


def _per_second(value: float) -> str:
    return f"{value:,.0f}/s"


if __name__ == "__main__":
    main()
