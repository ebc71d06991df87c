"""The metrics of a group: what its workers count, added up.

Each worker writes its own into files of a folder, as prometheus_client has it for several
processes. The group reads them when it is asked.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from interaction_svc import metrics

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which prometheus_client finds the folder."""
_MEMORY = Path("/dev/shm")  # noqa: S108 the folder in it is private


class GroupMetrics:
    """Collects the metrics of a group of workers; `registry` has them."""

    def __init__(self) -> None:
        # In memory if there is such a place: a full disk would kill who writes to a mapped file.
        where = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="interaction-svc-", dir=where))
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
        # The file is one: the group looks itself, since it has opened the store.
        self.registry.register(metrics.wal_bytes)
        self.registry.register(_Workers(self.folder, self._processes))

    def add(self, worker: int, process_id: int) -> None:
        """Count a worker that is ready."""
        self._processes[worker] = process_id
        self._workers.set(len(self._processes))

    def remove(self, worker: int) -> None:
        """Forget what holds of a worker only as long as it lives."""
        self._processes.pop(worker, None)
        self._workers.set(len(self._processes))
        mark_process_dead(worker, str(self.folder))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class _Workers(Collector):
    def __init__(self, folder: Path, processes: Mapping[int, int]) -> None:
        self._files = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        """Give the sum over the workers, and what the system says of each."""
        families = self._files.collect()  # type: ignore[no-untyped-call]
        found: dict[str, Metric] = {family.name: family for family in families}
        found.pop("interaction_svc_wal_bytes", None)  # which is the group's
        if "interaction_svc_serving" not in found:  # no worker lives
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
