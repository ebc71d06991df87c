"""A worker: a server on the ports of its supervisor. It ends when the supervisor ends."""

import asyncio
import io
import os
import shutil
import signal
import sys
import threading
from typing import Any

from interaction_svc.runtime import event_loop, process_tuning
from interaction_svc.runtime.server import Server
from interaction_svc.runtime.settings import Settings
from interaction_svc.runtime.workers.control_messages import FAILURES, StartupReport, read_settings
from interaction_svc.runtime.workers.worker_metrics import FOLDER_VARIABLE
from interaction_svc.telemetry.library_logs import log_stray_errors
from interaction_svc.telemetry.logs import configure_logs


def main(number: int) -> None:
    """Serve until SIGTERM; the first worker is number 1."""
    group = io.FileIO(sys.stdin.fileno(), closefd=False)
    line = group.readline()
    if not line:
        sys.exit(1)  # the supervisor has ended
    threading.Thread(target=_end_with, args=(group,), daemon=True).start()
    settings = read_settings(line)
    configure_logs(settings.log_level, worker=number)
    log_stray_errors()
    try:
        event_loop.run(_serve(settings, number))
    except FAILURES as error:
        _report(StartupReport(error))
        sys.exit(1)


async def _serve(settings: Settings, number: int) -> None:
    told = asyncio.Event()
    async with Server(settings, worker=number) as server:
        process_tuning.apply()
        # A second SIGTERM has no effect: a service manager may signal all processes, too.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        _report(StartupReport())
        stopping = asyncio.create_task(_wait_for(told))
        ends: list[asyncio.Future[Any]] = [stopping, server.ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not told.is_set():
        raise OSError(server.ended.result())


async def _wait_for(told: asyncio.Event) -> None:
    await told.wait()


def _end_with(group: io.FileIO) -> None:
    """Exit when the supervisor has ended. Runs in a thread, because the event loop may be busy."""
    try:
        group.read(1)
        if folder := os.environ.get(FOLDER_VARIABLE):
            shutil.rmtree(folder, ignore_errors=True)  # the supervisor did not remove it
    finally:
        os._exit(1)


def _report(report: StartupReport) -> None:
    os.write(sys.stdout.fileno(), report.line())
