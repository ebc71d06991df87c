"""The server processes of a benchmark, and their processor time."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEDULED = 2
"""CPUCLOCK_SCHED of Linux: the clock of the time that a process ran."""
GO_RIVAL = Path(".build/bin/rival-go")
GRPCIO, H2CORN = ENGINES = ("grpcio", "h2corn")
"""The engines of the service's gRPC listener."""


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process: user and system, all threads.

    It is read from the process's clock in nanoseconds; /proc has only hundredths of a second.
    """
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def resident_mib(pid: int, name: str = "VmRSS") -> float:
    """Return the resident memory of a process, or with VmHWM its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


@contextmanager
def rival(*command: str) -> Iterator[tuple[int, str]]:
    """Run a rival until the end of the block, and yield its process ID and its host and port."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip().partition(" on ")[2]
            if not address:
                raise RuntimeError(f"{command} didn't start")
            yield process.pid, address.removeprefix("http://")
        finally:
            process.terminate()


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a Python module."""
    return (sys.executable, "-m", module, *arguments)
