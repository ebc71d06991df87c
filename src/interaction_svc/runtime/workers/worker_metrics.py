"""Aggregation of the metrics of all workers.

Each worker writes its metrics to files in one folder (the multiprocess mode of prometheus_client).
The supervisor reads the files and sums the metrics at each scrape.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from interaction_svc.telemetry import metrics

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus_client finds the folder."""
_PREFIX = "interaction-svc-workers-"
_MEMORY = Path("/dev/shm")  # noqa: S108 the folder in it is private


class AggregatedMetrics:
    """Collects the metrics of the workers into `registry`."""

    def __init__(self) -> None:
        # In memory if possible: writing to a mapped file on a full disk kills the process.
        where = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        remove_leftovers(where)
        self.folder, self._lock = _locked_folder(where)
        self._processes: dict[int, int] = {}
        self.registry = CollectorRegistry()
        self._workers = Gauge(
            "interaction_svc_workers", "Workers that are ready.", registry=self.registry
        )
        self.restarts = Counter(
            "interaction_svc_worker_restarts",
            "Workers that were started in the place of one that had ended.",
            registry=self.registry,
        )
        self.registry.register(metrics.build)
        # Not summed over the workers: all have the same WAL file, whose size the supervisor reads.
        self.registry.register(metrics.wal_bytes)
        self.registry.register(_Workers(self.folder, self._processes))

    def add(self, worker: int, process_id: int) -> None:
        """Count a worker that is ready."""
        self._processes[worker] = process_id
        self._workers.set(len(self._processes))

    def remove(self, worker: int) -> None:
        """Remove the gauges of a worker that has ended."""
        self._processes.pop(worker, None)
        self._workers.set(len(self._processes))
        mark_process_dead(worker, str(self.folder))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def remove_leftovers(where: Path) -> None:
    """Remove the folders of supervisors of this user that were killed together with their workers.

    A supervisor holds a lock on its folder, which the system releases when the process ends.
    """
    for folder in where.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is another user's, not a folder, or being removed
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _locked_folder(where: Path) -> tuple[Path, int]:
    """Create and lock a folder. Retry if another supervisor removes it before it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


class _Workers(Collector):
    def __init__(self, folder: Path, processes: Mapping[int, int]) -> None:
        self._files = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        """Yield the sums over the workers, and the process metrics of each."""
        families = self._files.collect()  # type: ignore[no-untyped-call]
        found: dict[str, Metric] = {family.name: family for family in families}
        found.pop("interaction_svc_wal_bytes", None)  # the supervisor reads it itself
        if "interaction_svc_serving" not in found:  # no worker is running
            found["interaction_svc_serving"] = GaugeMetricFamily(
                "interaction_svc_serving", "1 while health says SERVING, else 0.", value=0
            )
        yield from found.values()
        yield from self._of_processes()

    def _of_processes(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for worker, process_id in sorted(self._processes.items()):
            of_one = ProcessCollector(pid=partial(int, process_id), registry=None)
            for family in of_one.collect():
                labelled = found.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labelled.add_sample(sample.name, {"worker": str(worker)}, sample.value)
        yield from found.values()
