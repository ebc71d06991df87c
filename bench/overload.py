"""The service under several times the load that it can serve.

`python -m bench.overload` measures the capacity of a server with default settings, but without the
limit of calls a second. Then it offers 3 and 6 times that load, open-loop, and finally the first
load again. Results are relative to the capacity of the same run, because the machine may be shared,
and the clients use the same cores as the server.
"""

import os
import platform
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing import http2
from testing.api_keys import new_key
from testing.build import new_interaction, new_parents
from testing.process import Served, served
from testing.requests import get_request

from bench.load import Answered, Load, Request, run
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb

PHASE_SECONDS = 4.0
WARM_SECONDS = 1.0
AT_ONCE = 64
"""Concurrent calls while capacity is measured."""
CONNECTIONS = 16
FACTORS = (3, 6)
PROCESSES = 2
STORED = 200
READS_FOR_A_WRITE = 3

_GET = "/interaction_svc.v1.InteractionService/GetInteraction"
_RECORD = "/interaction_svc.v1.IngestService/RecordInteraction"
_CODES = {str(code.value[0]): code.name for code in grpc.StatusCode}
_HEADINGS = (
    "phase", "offered/s", "served/s", "of capacity", "served ms p50, p99",
    "refused/s by code, ms p50, p99", "health ms p99", "RSS MiB",
)  # fmt: skip


def main() -> None:
    """Run the phases on a new server, and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = new_key(folder / "interactions.db", "admin")
        with (
            served(folder, "--calls-per-second", "0") as server,
            ProcessPoolExecutor(PROCESSES, get_context("spawn")) as clients,
        ):
            stored = [new_interaction(new_parents()) for _ in range(STORED)]
            metadata = (("authorization", key.bearer),)
            _record(server, stored, metadata)
            gets = tuple(
                _request(_GET, get_request(interaction).SerializeToString(), metadata)
                for interaction in stored
            )
            print(f"{_machine()}\n\n| {' | '.join(_HEADINGS)} |\n|{'---|' * len(_HEADINGS)}")
            _phases(server, clients, "Get", gets)
            writes = tuple(
                _request(
                    _RECORD,
                    ingest_pb.RecordInteractionRequest(
                        interaction=new_interaction(new_parents())
                    ).SerializeToString(),
                    metadata,
                )
                for _ in range(STORED)
            )
            _phases(server, clients, "Get and Record", gets * READS_FOR_A_WRITE + writes)


def _phases(
    server: Served, clients: ProcessPoolExecutor, name: str, requests: tuple[Request, ...]
) -> None:
    normal = Load(server.grpc_address, requests, PHASE_SECONDS, CONNECTIONS, at_once=AT_ONCE)
    _measured(server, clients, replace(normal, seconds=WARM_SECONDS))
    capacity = _row(server, clients, f"{name}: capacity", normal, 0)
    for factor in FACTORS:
        over = replace(normal, at_once=0, per_second=factor * capacity)
        _row(server, clients, f"{name}: {factor} times that", over, capacity)
    _row(server, clients, f"{name}: as at first", normal, capacity, first_second=True)


def _row(
    server: Served,
    clients: ProcessPoolExecutor,
    phase: str,
    load: Load,
    capacity: float,
    *,
    first_second: bool = False,
) -> float:
    """Measure a phase, print its row, and return the calls served a second."""
    answered, health = _measured(server, clients, load)
    of_ok = [took for _, took in answered.ok]
    refused = ", ".join(
        f"{len(took) / load.seconds:,.0f} {_CODES.get(code, code)}"
        f" ({_ms(took, 0.5)}, {_ms(took, 0.99)})"
        for code, took in sorted(answered.refused.items())
    )
    lost = answered.held_back + answered.unanswered
    served_per_second = len(of_ok) / load.seconds
    share = f"{served_per_second / (capacity or served_per_second):.0%}"
    if first_second:
        early = sum(ended <= 1 for ended, _ in answered.ok)
        share += f"; first second {early / capacity:.0%}"
    columns = (
        phase, f"{answered.offered / load.seconds:,.0f}", f"{served_per_second:,.0f}", share,
        f"{_ms(of_ok, 0.5)}, {_ms(of_ok, 0.99)}",
        (refused or "none") + (f"; {lost:,} not sent or not answered" if lost else ""),
        _ms(health, 0.99), str(resident_mib(server)),
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |", flush=True)
    return served_per_second


def _measured(
    server: Served, clients: ProcessPoolExecutor, load: Load
) -> tuple[Answered, list[float]]:
    """Generate the load from PROCESSES processes, and check health at the same time."""
    each = replace(
        load,
        connections=load.connections // PROCESSES,
        at_once=load.at_once // PROCESSES,
        per_second=load.per_second / PROCESSES,
    )
    with _HealthWatch(server) as watch:
        parts = list(clients.map(run, [each] * PROCESSES))
    whole = parts[0]
    for part in parts[1:]:
        whole.add(part)
    return whole, watch.took


class _HealthWatch:
    """Checks health every 50 ms, and raises at the end if it was not SERVING."""

    _PAUSE_SECONDS = 0.05

    def __init__(self, server: Served) -> None:
        self._address = server.grpc_address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._failure: Exception | None = None
        self.took: list[float] = []

    def __enter__(self) -> "_HealthWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        try:
            with grpc.insecure_channel(self._address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                while not self._over.wait(self._PAUSE_SECONDS):
                    begun = perf_counter()
                    checked = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
                    self.took.append(perf_counter() - begun)
                    if checked.status != health_pb2.HealthCheckResponse.SERVING:
                        raise RuntimeError("not SERVING")
        except Exception as error:
            self._failure = error


def resident_mib(server: Served) -> int:
    """Return the server's resident memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def _ms(seconds: list[float], share: float) -> str:
    if not seconds:
        return "-"
    return f"{sorted(seconds)[min(int(len(seconds) * share), len(seconds) - 1)] * 1000:,.0f}"


def _request(method: str, data: bytes, metadata: http2.Pairs) -> Request:
    return Request(http2.call_headers(method, metadata), http2.message(data))


def _record(server: Served, interactions: list[pb.Interaction], metadata: http2.Pairs) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        record: Any = channel.unary_unary(_RECORD)
        for interaction in interactions:
            request = ingest_pb.RecordInteractionRequest(interaction=interaction)
            record(request.SerializeToString(), metadata=metadata)


def _machine() -> str:
    return (
        f"{platform.machine()}, {os.cpu_count()} cores for server and clients together,"
        f" Python {platform.python_version()}, grpc {grpc.__version__}, {sys.platform}"
    )


if __name__ == "__main__":
    main()
