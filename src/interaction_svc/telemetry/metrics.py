"""What Prometheus can ask the service: the metrics of the process, each made once, here.

With several workers, each counts by itself, and they are added up (workers/metrics.py); gauges say
by their `multiprocess_mode` how. None has a SID, an address or anything else of callers in its
labels, so that their number is bounded and they may be read by whoever watches the service.
docs/operations.md lists them.
"""

import asyncio
import platform
import socket
import sqlite3
from contextlib import suppress
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    start_http_server,
)

from interaction_svc import __version__
from interaction_svc.runtime.liveness import CHECK_SECONDS
from interaction_svc.telemetry.metric_buffer import FlushOnCollect
from interaction_svc.transports.address import Address
from interaction_svc.transports.sockets import addresses_of, bind, cannot_listen, listens

_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000)

REGISTRY.register(FlushOnCollect())  # the first: they are collected in the order of registration

calls = Counter(
    "interaction_svc_calls",
    "Calls that were answered, by transport, method, and gRPC code or HTTP status.",
    ["transport", "method", "code"],
)
call_seconds = Histogram(
    "interaction_svc_call_duration_seconds",
    "From the arrival of a call to its end.",
    ["transport", "method"],
    buckets=_SECONDS,
)
calls_in_flight = Gauge(
    "interaction_svc_calls_in_flight",
    "Calls that are being worked on.",
    ["transport"],
    multiprocess_mode="livesum",
)
refused = Counter(
    "interaction_svc_refused",
    "Calls that ended in an error, by its reason: a value of ErrorReason.",
    ["transport", "reason"],
)
page_interactions = Histogram(
    "interaction_svc_page_interactions", "Interactions of a page of a list.", buckets=(0, *_SIZES)
)
store_seconds = Histogram(
    "interaction_svc_store_duration_seconds",
    "From asking the store to its answer, waiting included.",
    ["operation"],
    buckets=_SECONDS,
)
commit_operations = Histogram(
    "interaction_svc_commit_operations", "Operations that shared a commit.", buckets=_SIZES
)
commit_rows = Histogram(
    "interaction_svc_commit_rows", "Rows that were written by a commit.", buckets=_SIZES
)
waiting_rows = Gauge(
    "interaction_svc_waiting_rows", "Rows that wait to be written.", multiprocess_mode="livesum"
)
waiting_bytes = Gauge("interaction_svc_waiting_bytes", "Their size.", multiprocess_mode="livesum")
wal_bytes = Gauge("interaction_svc_wal_bytes", "Size of SQLite's write-ahead log.")
replica_reads = Counter(
    "interaction_svc_replica_reads",
    "Gets and pages beside a replica, by the server that was read, and why that one.",
    ["server", "reason"],
)
replica_up = Gauge(
    "interaction_svc_replica_up",
    "1 while reads go to the replica, else 0.",
    multiprocess_mode="livemin",
)
replica_lag_bytes = Gauge(
    "interaction_svc_replica_lag_bytes",
    "How much of the primary's write-ahead log the replica has not replayed.",
    multiprocess_mode="livemax",
)
rows_erased = Counter(
    "interaction_svc_rows_erased",
    "Interactions that were deleted for good: by a call, or by retention.",
    ["cause"],
)
serving = Gauge(
    "interaction_svc_serving",
    "1 while health says SERVING, else 0.",
    multiprocess_mode="livemin",
)
build = Info("interaction_svc_build", "What is running.")
build.info(
    {
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
)


class MetricsServer:
    """Serves the metrics of a registry under /metrics, from a thread for each address."""

    def __init__(self, address: Address, registry: CollectorRegistry = REGISTRY) -> None:
        self._address = address
        self._registry = registry
        self._servers: list[tuple[WSGIServer, Thread]] = []

    def start(self) -> Address:
        """Listen, and return the address with its real port. Raises OSError if that can't be."""
        try:
            bound = bind(self._address)
            port = bound[0].getsockname()[1]
            for one in bound:
                one.close()
            for host, _ in addresses_of(self._address):
                self._servers.append(start_http_server(port, host, self._registry))
        except OSError as error:
            raise cannot_listen("metrics", self._address, error) from error
        return self._address._replace(port=port)

    async def failure(self) -> str:
        """Return why the listener has ended, once it has by itself."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for server, thread in self._servers:
                if not thread.is_alive():
                    return "its thread has ended"
                if not listens(server.socket):
                    return "its socket is closed"

    async def stop(self) -> None:
        """Listen no more."""
        for server, thread in self._servers:
            # Its thread looks twice a second whether to end, and whenever its socket has something.
            with suppress(OSError):  # not on every system can one that listens be shut down
                server.socket.shutdown(socket.SHUT_RDWR)
            if thread.is_alive():  # or there is nobody to heed it
                await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(thread.join)
