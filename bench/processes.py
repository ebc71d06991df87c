"""The servers of a run, each a process of its own, and what they cost."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEDULED = 2
"""Of the kinds of clocks that Linux has of a process: the time that it ran."""
GO_RIVAL = Path(".build/bin/rival-go")


def cpu_seconds(pid: int) -> float:
    """Return what a process has used of the processor: user and system, all threads.

    From its clock, which is exact to the nanosecond; /proc counts in hundredths of a second.
    """
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


@contextmanager
def rival(*command: str) -> Iterator[tuple[int, str]]:
    """Run a rival until the end of the block; give its process id and its host and port."""
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
    """Return the command that runs one of our modules."""
    return (sys.executable, "-m", module, *arguments)
