"""The supervisor of the workers: starts them, restarts those that end, and stops them all."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Self, cast

import structlog

from interaction_svc.runtime.listen_policy import check_listen_policy
from interaction_svc.runtime.liveness import Liveness
from interaction_svc.runtime.metrics_server import MetricsServer
from interaction_svc.runtime.settings import Settings
from interaction_svc.runtime.workers.control_messages import StartupReport, settings_line
from interaction_svc.runtime.workers.shared_port import ReservedPort
from interaction_svc.runtime.workers.worker_metrics import FOLDER_VARIABLE, AggregatedMetrics
from interaction_svc.store.factory import open_store
from interaction_svc.telemetry.task_failure import failure_of
from interaction_svc.transports.address import Address
from interaction_svc.transports.sockets import cannot_listen

FIRST_PAUSE_SECONDS = 0.1
"""The pause before a worker is restarted; it doubles each time."""
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""After a worker has run this long, its pause is FIRST_PAUSE_SECONDS again."""

_Pipes = tuple[asyncio.StreamWriter, asyncio.StreamReader]

log = structlog.get_logger()


class Supervisor:
    """Workers on the same ports, used like a Server: entering starts them, leaving drains them.

    Entering raises the same errors as entering a Server, also if they occur in a worker. Leaving
    raises OSError if a worker ended with an error.
    """

    grpc_address: Address | None = None
    http_address: Address | None = None
    metrics_address: Address | None = None
    ended: asyncio.Future[str]
    """Done when a part of the supervisor has ended unexpectedly. A worker that ends is restarted,
    and does not count.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics: AggregatedMetrics | None = None
        self._processes: dict[int, Process] = {}
        self._keeping: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._ended_badly: list[str] = []
        self._liveness = Liveness()
        self.ended = self._liveness.ended
        self._cleanups = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self._settings
        async with AsyncExitStack() as cleanups:
            await self._prepare_store()
            if settings.metrics:
                self._metrics = AggregatedMetrics()
                cleanups.callback(self._metrics.close)
                server = MetricsServer(
                    Address.parse(settings.metrics_address), self._metrics.registry
                )
                cleanups.push_async_callback(server.stop)
                self.metrics_address = server.start()
                self._liveness.watch("the metrics listener", server.failure())
            if settings.grpc:
                self.grpc_address = self._reserve("gRPC", settings.grpc_address, cleanups)
            if settings.http:
                self.http_address = self._reserve("HTTP", settings.http_address, cleanups)
            cleanups.push_async_callback(self._stop)
            cleanups.push_async_callback(self._liveness.stop)
            await self._start()
            self._cleanups = cleanups.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._cleanups.aclose()

    def end_at_once(self, status: int) -> None:
        """Kill the workers, and end this process with this exit status."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()
        if self._metrics is not None:
            self._metrics.close()
        os._exit(status)

    async def _prepare_store(self) -> None:
        """Migrate the store and log warnings once for all workers."""
        store = await open_store(self._settings.store, replica=self._settings.replica)
        try:
            await check_listen_policy(self._settings, store)
        finally:
            await store.close()

    def _reserve(self, what: str, text: str, cleanups: AsyncExitStack) -> Address:
        """Reserve a port for the workers, and return its address."""
        address = Address.parse(text)
        try:
            held = ReservedPort(address)
        except OSError as error:
            raise cannot_listen(what, address, error) from error
        cleanups.callback(held.close)
        return held.address

    async def _start(self) -> None:
        starting = []
        for number in range(1, self._settings.workers + 1):
            ready = asyncio.get_running_loop().create_future()
            keeping = asyncio.create_task(self._supervise(number, ready))
            keeping.add_done_callback(partial(_pass_on, ready))
            self._keeping.append(keeping)
            starting.append(ready)
        await asyncio.gather(*starting)
        for number, keeping in enumerate(self._keeping, 1):
            self._liveness.watch(f"the supervision of worker {number}", failure_of(keeping))

    async def _stop(self) -> None:
        """Drain all workers concurrently; each has the drain time."""
        self._stopping.set()
        for process in self._processes.values():
            _tell_to_stop(process)
        await asyncio.gather(*self._keeping, return_exceptions=True)  # errors are reported already
        for process in self._processes.values():  # left only if their supervision has failed
            await process.wait()
        if self._ended_badly:
            raise OSError("; ".join(self._ended_badly))

    async def _supervise(self, number: int, ready: asyncio.Future[None]) -> None:
        """Keep a worker running until the supervisor stops; `ready` is done at its first start."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE_SECONDS
        while True:
            begun = loop.time()
            try:
                how, failure = await self._run(number, ready)
            except OSError as error:  # the process can't be created
                how, failure = "not started", error
            if self._stopping.is_set():
                return
            if not ready.done():
                ready.set_exception(failure or OSError(f"a worker ended: {how}"))
                ready.exception()  # retrieved, so that asyncio does not log it
                return
            if loop.time() - begun > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.error(
                "a worker has ended",
                worker=number,
                how=how,
                again_in_seconds=pause,
                **({"cause": str(failure)} if failure else {}),
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            if self._metrics is not None:
                self._metrics.restarts.inc()

    async def _run(self, number: int, ready: asyncio.Future[None]) -> tuple[str, Exception | None]:
        """Run a worker until it ends. Return how it ended, and its error if it failed to start."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "interaction_svc.runtime.workers", str(number),
            stdin=PIPE, stdout=PIPE, env=self._environment(),
        )  # fmt: skip
        self._processes[number] = process
        if self._stopping.is_set():
            _tell_to_stop(process)
        settings, report = cast(_Pipes, (process.stdin, process.stdout))
        settings.write(settings_line(self._settings_of_workers()))
        failure = StartupReport.read(await report.readline()).failure
        is_ready = failure is None
        if is_ready:
            self._count(number, process)
            if ready.done():
                log.info("a worker has been started again", worker=number)
            else:
                ready.set_result(None)
        status = await process.wait()
        del self._processes[number]
        if self._metrics is not None:
            self._metrics.remove(number)
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        if is_ready and status and self._stopping.is_set():
            self._ended_badly.append(f"worker {number} ended: {how}")
        return how, failure

    def _count(self, number: int, process: Process) -> None:
        if self._metrics is not None:
            self._metrics.add(number, process.pid)

    def _settings_of_workers(self) -> Settings:
        """Return the settings with the reserved ports."""
        addresses = {"grpc_address": self.grpc_address, "http_address": self.http_address}
        return self._settings.model_copy(
            update={name: str(address) for name, address in addresses.items() if address}
        )

    def _environment(self) -> dict[str, str]:
        """Return the environment of a worker, with the module path and the metrics folder."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.pop(FOLDER_VARIABLE, None)
        if self._metrics is not None:
            environment[FOLDER_VARIABLE] = str(self._metrics.folder)
        return environment


def _pass_on(ready: asyncio.Future[None], keeping: asyncio.Task[None]) -> None:
    """Set the error of a worker's supervision on the future of its start."""
    if not ready.done() and not keeping.cancelled() and (error := keeping.exception()):
        ready.set_exception(error)


def _tell_to_stop(process: Process) -> None:
    with suppress(ProcessLookupError):  # it has ended
        process.terminate()
