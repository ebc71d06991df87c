"""The servers of a run, each a process of its own, and what they cost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_STAT_USER, _STAT_SYSTEM = 11, 12  # after the name, in which there may be blanks
GO_RIVAL = Path(".build/bin/rival-go")


def cpu_seconds(pid: int) -> float:
    """Give what a process has used of the processor: user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_STAT_USER]) + int(fields[_STAT_SYSTEM])) / _TICKS_PER_SECOND


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
    """Give the command that runs one of our modules."""
    return (sys.executable, "-m", module, *arguments)
