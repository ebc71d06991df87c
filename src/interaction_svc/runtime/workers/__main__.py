"""A worker process: `python -m interaction_svc.runtime.workers NUMBER`, which the group starts."""

import os
import signal
import sys

# Ctrl-C reaches every process of a terminal, but it is the group that tells its workers to stop.
signal.signal(signal.SIGINT, signal.SIG_IGN)

from prometheus_client import values  # noqa: E402

number = int(sys.argv[1])
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # By number, not by process: a worker that is started again goes on with the counters of the one
    # before it, and there are no more files than workers. Metrics are made when they are imported.
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]

from interaction_svc.runtime.workers.worker import main  # noqa: E402

main(number)
