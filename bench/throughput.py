"""The throughput of many callers, on both engines of gRPC and on plain grpc-go."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from testing.requests import get_request

from bench import reading
from bench.load import Load, run
from bench.processes import GO_RIVAL, GRPCIO, H2CORN, rival
from bench.reading import GO
from bench.rivals import copy_db

AT_ONCE = 64
_CONNECTIONS = 8
_UNLIMITED = ("--calls-per-second", "0")


def gets_per_second(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the Gets a second of AT_ONCE callers in each round, by engine or rival.

    The clients run on the same cores as the server. The servers take turns. The limit on the calls
    of an account is off, because h2corn can reach it.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stored = stack.enter_context(reading.serve_rows(folder, *_UNLIMITED))
        on_h2corn = stack.enter_context(
            reading.serve_same(stored.server, folder, H2CORN, *_UNLIMITED)
        )
        addresses = {GRPCIO: stored.server.grpc_address, H2CORN: on_h2corn.grpc_address}
        if GO_RIVAL.exists():
            theirs = folder / "rivals.db"
            copy_db.copy(stored.server.store, theirs)
            _, addresses[GO] = stack.enter_context(rival(str(GO_RIVAL), "-db", str(theirs)))
        metadata = (("authorization", stored.key.bearer),)
        loads = {
            name: Load(
                address,
                tuple(
                    reading.grpc_request(address, get_request(read), metadata)
                    for read in stored.read
                ),
                seconds,
                _CONNECTIONS,
                at_once=AT_ONCE,
            )
            for name, address in addresses.items()
        }
        found: dict[str, list[float]] = {name: [] for name in loads}
        for number in range(rounds + 1):  # the first one warms up
            for name, load in loads.items():
                answered = run(load)
                if answered.refused or answered.unanswered:
                    raise RuntimeError(f"{name}: {answered.refused}, {answered.unanswered}")
                if number:
                    found[name].append(sum(end <= seconds for end, _ in answered.ok) / seconds)
        return found
