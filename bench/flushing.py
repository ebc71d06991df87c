"""Simulation of slower disks, because the cost of a record depends on the time of a flush."""

import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("slow_flush.c")


def slower_by(milliseconds: int, folder: Path) -> dict[str, str] | None:
    """Return the environment of a process whose flushes take `milliseconds` longer.

    The environment preloads a library, which is built in `folder`. Return None if there is no C
    compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "slow_flush.so"
    subprocess.run(  # noqa: S603
        [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE)], check=True
    )
    return {"LD_PRELOAD": str(library), "BENCH_FLUSH_MS": str(milliseconds)}
