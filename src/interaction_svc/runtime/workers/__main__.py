"""A worker process: `python -m interaction_svc.runtime.workers NUMBER`."""

import os
import signal
import sys

# Ctrl-C signals every process of a terminal, but the supervisor stops its workers.
signal.signal(signal.SIGINT, signal.SIG_IGN)

from prometheus_client import values  # noqa: E402

number = int(sys.argv[1])
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # By number, not by process: a restarted worker continues the counters of its predecessor, and
    # there are no more files than workers. Importing the metrics creates them, so this comes first.
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]

from interaction_svc.runtime.workers.worker import main  # noqa: E402

main(number)
