"""Measurement of the peak memory of a command.

The child process reads its own VmHWM, which is reset at exec. The value of `wait4` would include
the memory of the parent at the fork, and a pytest worker may be much larger.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from testing.process import EXIT_SECONDS

_PEAK_FILE = "TEST_PEAK_FILE"
_PROGRAM = f"""
import atexit, os, runpy

def note():
    with open("/proc/self/status") as status, open(os.environ["{_PEAK_FILE}"], "w") as noted:
        noted.write(next(line.split()[1] for line in status if line.startswith("VmHWM:")))

atexit.register(note)
runpy.run_module("interaction_svc", run_name="__main__", alter_sys=True)
"""


class Measured(NamedTuple):
    """The exit status of a run, the files with its output, and its peak resident size in MiB."""

    status: int
    output: Path
    messages: Path
    peak_mib: float


def nothing(_: IO[bytes]) -> None:
    """Write no input."""


def measured(*arguments: str, cwd: Path, feed: Callable[[IO[bytes]], object] = nothing) -> Measured:
    """Run the command line to its end, with the input that `feed` writes.

    The command need not read all the input. Its output goes to files in `cwd`, because it may be
    large.
    """
    output, messages, noted = (cwd / name for name in ("output", "messages", "peak"))
    noted.unlink(missing_ok=True)  # of an earlier run
    with output.open("wb") as out, messages.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env={**os.environ, _PEAK_FILE: str(noted)},
        )
    assert process.stdin is not None
    feeding = threading.Thread(target=_write, args=(feed, process.stdin))
    feeding.start()
    try:
        status = process.wait(EXIT_SECONDS)
    finally:
        process.kill()
        feeding.join()
    return Measured(status, output, messages, int(noted.read_text()) / 1024)


def _write(feed: Callable[[IO[bytes]], object], stream: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        feed(stream)
    with suppress(BrokenPipeError):
        stream.close()
