"""Two workers on one port, compared with one."""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
from testing import http2
from testing.api_keys import new_key
from testing.build import new_interaction, new_parents
from testing.process import served
from testing.requests import get_request

from bench.load import Load, Request, run
from bench.processes import cpu_seconds
from bench.writing import Ratio
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb

PROCESSES = 2
CONNECTIONS = 8
AT_ONCE = 16
"""Concurrent calls of each client process."""
_GET = "/interaction_svc.v1.InteractionService/GetInteraction"
_RECORD = "/interaction_svc.v1.IngestService/RecordInteraction"


def two_workers(rounds: int, seconds: float) -> tuple[list[Ratio], list[Ratio]]:
    """Measure Gets a second, and microseconds of a Get, with `--workers 2` and with one process."""
    with ExitStack() as stack:
        clients = stack.enter_context(ProcessPoolExecutor(PROCESSES, get_context("spawn")))
        servers = []
        for workers in (2, 1):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            key = new_key(folder / "interactions.db", "admin")
            server = stack.enter_context(served(folder, "--workers", str(workers)))
            interaction = new_interaction(new_parents())
            metadata = (("authorization", key.bearer),)
            with grpc.insecure_channel(server.grpc_address) as channel:
                record: Any = channel.unary_unary(_RECORD)
                recorded = ingest_pb.RecordInteractionRequest(interaction=interaction)
                record(recorded.SerializeToString(), metadata=metadata)
            get = get_request(interaction).SerializeToString()
            request = Request(http2.call_headers(_GET, metadata), http2.message(get))
            load = Load(server.grpc_address, (request,), seconds, CONNECTIONS, at_once=AT_ONCE)
            servers.append((_processes(server.process.pid), load))

        def measured(pids: list[int], load: Load) -> tuple[float, float]:
            before = sum(map(cpu_seconds, pids))
            parts = list(clients.map(run, [load] * PROCESSES))
            assert not any(part.refused for part in parts)
            count = sum(len(part.ok) for part in parts)
            return count / seconds, (sum(map(cpu_seconds, pids)) - before) / count * 1e6

        for pids, load in servers:
            measured(pids, replace(load, seconds=seconds / 2))
        found = [[measured(*server) for server in servers] for _ in range(rounds)]
    return (
        [Ratio(two[0], one[0]) for two, one in found],
        [Ratio(two[1], one[1]) for two, one in found],
    )


def _processes(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]
