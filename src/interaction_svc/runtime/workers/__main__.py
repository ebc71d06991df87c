"""A worker process: `python -m interaction_svc.runtime.workers NUMBER`."""

import os
import signal
import sys

# Ctrl-C signals every process of a terminal. Workers ignore it: their supervisor stops them.
signal.signal(signal.SIGINT, signal.SIG_IGN)

from prometheus_client import values  # noqa: E402

number = int(sys.argv[1])
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # Identified by the worker's number, not its process ID: a restarted worker continues the
    # counters of its predecessor, and the number of files is bounded. Set before the metrics are
    # imported, because importing them creates the files.
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]

from interaction_svc.runtime.workers.worker import main  # noqa: E402

main(number)
