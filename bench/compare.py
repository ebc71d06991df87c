"""`make bench-compare`: compares the cost of reads between this source tree and a commit.

One server runs each tree. Both servers store the same Interactions and get the same requests, in
alternating rounds in random order. A third server also runs this tree. Its cost relative to the
other server of this tree is the noise of the machine. A smaller difference between the commits is
not significant.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from testing.api_keys import IssuedKey
from testing.process import Served, run, served
from testing.requests import get_request, list_request

from bench import reading
from bench.processes import ENGINES, GRPCIO
from bench.reading import GET, GETS, Contender, Rows, case_of
from bench.report import machine, markdown

_SIZES = (50, 1000)
_ROUNDS = 15


class _Tree(NamedTuple):
    name: str
    source: Path


class _Running(NamedTuple):
    tree: _Tree
    server: Served
    key: IssuedKey


def main() -> None:
    """Measure two source trees, and print the ratio of each case."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("base", type=Path, help="the other commit's src folder")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--engine", choices=ENGINES, default=GRPCIO, help="of gRPC, in all trees")
    parser.add_argument("--seconds", type=float, default=0.25, help="for each case in a round")
    given = parser.parse_args()
    here = Path("src").resolve()
    trees = [
        _Tree("base", given.base.resolve()), _Tree("here", here), _Tree("here again", here)
    ]  # fmt: skip
    rows = reading.make_rows()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = [stack.enter_context(_serve(tree, folder, rows, given.engine)) for tree in trees]
        over_grpc = [_grpc_contender(each, rows) for each in running]
        over_rest = [_rest_contender(each, rows) for each in running]
        over_connect = [_connect_contender(each, rows) for each in running]
        print(machine())
        for transport, contenders in (
            (f"gRPC on {given.engine}", over_grpc),
            ("REST", over_rest),
            ("Connect as JSON", over_connect),
        ):  # fmt: skip
            costs = _measured(contenders, given.rounds, given.seconds)
            print(f"\n{transport}, server CPU of a request in microseconds:\n")
            print(markdown([("", "base", "here", "here ÷ base", "quartiles", "noise"), *costs]))


@contextmanager
def _serve(tree: _Tree, folder: Path, rows: Rows, engine: str) -> Iterator[_Running]:
    own = folder / tree.name.replace(" ", "-")
    own.mkdir()
    read, ingest = (_new_key(tree, own, role, rows) for role in ("read", "ingest"))
    flags = () if engine == GRPCIO else ("--grpc-engine", engine)  # older trees lack the flag
    with served(own, *flags, env={"PYTHONPATH": str(tree.source)}) as server:
        reading.record(server.grpc_address, ingest, rows.made)
        yield _Running(tree, server, read)


def _new_key(tree: _Tree, folder: Path, role: str, rows: Rows) -> IssuedKey:
    store = f"sqlite:///{folder / 'interactions.db'}"
    account = ("--account", rows.parents.account_sid)
    create = ("keys", "create", "--json", "--store", store, "--role", role, *account)
    answer = run(*create, PYTHONPATH=str(tree.source))
    key = json.loads(answer.stdout)
    return IssuedKey(key["sid"], key["secret"])


def _grpc_contender(running: _Running, rows: Rows) -> Contender:
    tree, server, key = running
    metadata = (("authorization", key.bearer),)
    address = server.grpc_address
    requests = {
        case: tuple(reading.grpc_request(address, request, metadata) for request in of_case)
        for case, of_case in _rpc_requests(rows).items()
    }
    return Contender(tree.name, server.process.pid, address, requests)


def _connect_contender(running: _Running, rows: Rows) -> Contender:
    tree, server, key = running
    address, header = server.base_url.removeprefix("http://"), reading.header_of(key.basic)
    requests = {
        case: tuple(reading.connect_request(address, request, header) for request in of_case)
        for case, of_case in _rpc_requests(rows).items()
    }
    return Contender(tree.name, server.process.pid, address, requests)


def _rpc_requests(rows: Rows) -> dict[str, list[Any]]:
    lists = {case_of(size): [list_request(rows.parents, page_size=size)] for size in _SIZES}
    return {GET: [get_request(each) for each in rows.session[:GETS]]} | lists


def _rest_contender(running: _Running, rows: Rows) -> Contender:
    tree, server, key = running
    path, address = rows.parents.path, server.base_url.removeprefix("http://")
    asked = {GET: [f"{path}/{each.sid}" for each in rows.session[:GETS]]} | {
        case_of(size): [f"{path}?PageSize={size}"] for size in _SIZES
    }
    header = reading.header_of(key.basic)
    requests = {
        case: tuple(reading.rest_request(address, each, header) for each in paths)
        for case, paths in asked.items()
    }
    return Contender(tree.name, server.process.pid, address, requests)


def _measured(
    contenders: list[Contender], rounds: int, seconds: float
) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for each case."""
    for case in contenders[0].requests:
        costs: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            for contender in random.sample(contenders, len(contenders)):
                cost = reading.cost_of(contender, case, seconds)
                if number:  # the first round is the warm-up
                    costs.setdefault(contender.name, []).append(cost)
        base, here, again = (costs[contender.name] for contender in contenders)
        ratios = [one / other for one, other in zip(here, base, strict=True)]
        noise = statistics.median(two / one for two, one in zip(again, here, strict=True))
        low, _, high = statistics.quantiles(ratios, n=4)
        yield (
            case,
            f"{statistics.median(base):.0f}",
            f"{statistics.median(here):.0f}",
            f"{statistics.median(ratios):.3f}",
            f"{low:.3f}, {high:.3f}",
            f"{noise:.3f}",
        )


if __name__ == "__main__":
    main()
