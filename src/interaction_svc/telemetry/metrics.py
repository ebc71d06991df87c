"""The definitions of all metrics of the process. docs/monitoring.md lists them.

With several workers, each worker counts by itself, and runtime/workers/worker_metrics.py aggregates
the values. The `multiprocess_mode` of a gauge selects the aggregation. No label contains a SID, an
address or other data of callers. So the number of time series is bounded, and operators may read
the metrics.
"""

import platform
import sqlite3

from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    Info,
)

from interaction_svc import __version__
from interaction_svc.telemetry.metric_buffer import FlushOnCollect

_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000)

REGISTRY.register(FlushOnCollect())  # first: collectors run in the order of registration

calls = Counter(
    "interaction_svc_calls",
    "Calls that were answered, by transport, method, and gRPC code or HTTP status.",
    ["transport", "method", "code"],
)
call_seconds = Histogram(
    "interaction_svc_call_duration_seconds",
    "Time from the arrival of a call to its end.",
    ["transport", "method"],
    buckets=_SECONDS,
)
calls_in_flight = Gauge(
    "interaction_svc_calls_in_flight",
    "Calls in progress.",
    ["transport"],
    multiprocess_mode="livesum",
)
errors = Counter(
    "interaction_svc_errors",
    "Calls that ended in an error, by its reason: a value of ErrorReason.",
    ["transport", "reason"],
)
page_interactions = Histogram(
    "interaction_svc_page_interactions", "Interactions in a page of a list.", buckets=(0, *_SIZES)
)
store_seconds = Histogram(
    "interaction_svc_store_duration_seconds",
    "Time of a store call, including the wait in its queue.",
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
waiting_bytes = Gauge(
    "interaction_svc_waiting_bytes",
    "Bytes of the rows that wait to be written.",
    multiprocess_mode="livesum",
)
wal_bytes = Gauge("interaction_svc_wal_bytes", "Size of SQLite's write-ahead log.")
replica_reads = Counter(
    "interaction_svc_replica_reads",
    "Gets and pages of a store with a replica, by the server that was read and the reason.",
    ["server", "reason"],
)
replica_up = Gauge(
    "interaction_svc_replica_up",
    "1 while reads go to the replica, else 0.",
    multiprocess_mode="livemin",
)
replica_lag_bytes = Gauge(
    "interaction_svc_replica_lag_bytes",
    "Bytes of the primary's write-ahead log that the replica has not replayed.",
    multiprocess_mode="livemax",
)
rows_erased = Counter(
    "interaction_svc_rows_erased",
    "Interactions that were deleted permanently, by a call or by retention.",
    ["cause"],
)
listener_restarts = Counter(
    "interaction_svc_listener_restarts",
    "Times that a listener failed and was started again.",
    ["listener"],
)
serving = Gauge(
    "interaction_svc_serving",
    "1 while health says SERVING, else 0.",
    multiprocess_mode="livemin",
)
build = Info("interaction_svc_build", "Versions of the service, Python and SQLite.")
build.info(
    {
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
)
