"""The composition root: builds the service, starts it, and drains it."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import structlog
from starlette.types import ASGIApp

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.fairness import ReadPriority
from interaction_svc.admission.rate_limits import RequestRateLimit
from interaction_svc.app.authentication import Authenticator
from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.app.retention import Retention
from interaction_svc.runtime import event_loop
from interaction_svc.runtime.certificates import certificates_of
from interaction_svc.runtime.health import Health
from interaction_svc.runtime.http_app import http_app
from interaction_svc.runtime.listen_policy import check_hosted_policy, check_listen_policy
from interaction_svc.runtime.liveness import Liveness
from interaction_svc.runtime.metrics_server import MetricsServer
from interaction_svc.runtime.settings import ENV_PREFIX, Settings, SettingsError
from interaction_svc.store import Store
from interaction_svc.store.factory import open_store
from interaction_svc.store.instrumented import InstrumentedStore
from interaction_svc.telemetry.logs import buffered_logs
from interaction_svc.telemetry.metric_buffer import buffered_metrics
from interaction_svc.transports.address import Address
from interaction_svc.transports.connect.app import RpcApp
from interaction_svc.transports.grpcio.server import GrpcServer
from interaction_svc.transports.http1.protocol import HttpLimits
from interaction_svc.transports.http1.server import HttpServer
from interaction_svc.transports.operations import open_methods
from interaction_svc.transports.pipeline import Pipeline, StreamTimes
from interaction_svc.transports.rest.responses import error_response
from interaction_svc.transports.rpc.health import HealthServicer
from interaction_svc.transports.rpc.limits import GrpcLimits
from interaction_svc.transports.rpc.methods import SERVICES, rpc_methods
from interaction_svc.transports.tls import Certificates

if TYPE_CHECKING:
    from interaction_svc.transports.h2corn.server import H2cornServer

log = structlog.get_logger()


class Server:
    """The running service.

    Use it as an async context manager: entering starts it, leaving drains it. Entering raises
    StoreError if the store can't be opened, OSError if it can't listen on an address, and
    SettingsError if a setting lacks another that it needs, or a file can't be used.

    With `worker`, a number from 1, this is one of the workers, which share the ports and the store.
    For all workers the supervisor (workers/supervisor.py) migrates the store, logs warnings and
    serves the metrics, and worker 1 runs the retention.
    """

    grpc_address: Address | None = None
    """The address that gRPC listens on, with its real port; None if gRPC is not served."""
    http_address: Address | None = None
    """The address that HTTP listens on, with its real port; None if HTTP is not served."""
    metrics_address: Address | None = None
    """The address of the metrics, with its real port; None if this server does not serve them."""
    store: Store
    app: ASGIApp
    """The application of HTTP, once it has started with `listens=False`."""
    ended: asyncio.Future[str]
    """As in Liveness: done when a listener or a background task has ended unexpectedly."""

    def __init__(
        self, settings: Settings, *, worker: int | None = None, listens: bool = True
    ) -> None:
        """Build a server. With `listens=False` another program serves `app`, and has the TLS."""
        self._settings = settings
        self._listens = listens
        self._worker = worker
        self._is_worker = worker is not None
        self._listening: list[GrpcServer | H2cornServer | HttpServer] = []
        self._rpc_apps: list[RpcApp] = []
        self._has_started = False
        self._liveness = Liveness()
        self.ended = self._liveness.ended
        self._cleanups = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self._settings
        async with AsyncExitStack() as cleanups:
            cleanups.enter_context(buffered_logs())
            cleanups.enter_context(buffered_metrics())
            certificates = certificates_of(settings) if self._listens else None
            if certificates is not None:
                await certificates.start()
                cleanups.push_async_callback(certificates.stop)
            reads = ReadPriority()
            opened = await open_store(
                settings.store,
                create=not self._is_worker,
                postgres=settings.postgres_limits,
                replica=settings.replica,
                reads=reads,
            )
            self.store = InstrumentedStore(opened)
            cleanups.push_async_callback(self.store.close)
            health = Health(self.store)
            if self._listens:
                allows_anonymous = await check_listen_policy(
                    settings, self.store, warns=not self._is_worker
                )
            else:
                allows_anonymous = await check_hosted_policy(settings, self.store)
            authenticator = Authenticator(self.store, allows_anonymous=allows_anonymous)
            admission = AdmissionControl(
                ConcurrencyLimit(
                    settings.max_concurrent_calls,
                    most_waiting=settings.max_waiting_calls,
                    call_share=settings.account_call_share,
                    stream_share=settings.account_stream_share,
                    streams_per_key=settings.max_streams_per_key,
                ),
                RequestRateLimit(settings.calls_per_second),
                settings.deadline_seconds,
            )
            pipeline = Pipeline(authenticator, admission)
            retention = Retention(self.store, settings.retain_days, settings.retain_days_by_service)
            cleanups.push_async_callback(retention.stop)
            if settings.metrics and not self._is_worker:
                self._start_metrics(cleanups)
            cleanups.push_async_callback(self._drain, health)
            cleanups.push_async_callback(self._liveness.stop)
            if self._is_worker:
                await health.start()  # a shared port receives calls as soon as it listens
            interactions, ingest = Interactions(self.store, reads), Ingest(self.store, reads)
            health_servicer = HealthServicer(SERVICES)
            await health.listen(health_servicer.set_serving)
            methods = rpc_methods(interactions, ingest, health_servicer)
            times = StreamTimes(settings.stream_idle_seconds, settings.stream_seconds)
            http_address = Address.parse(settings.http_address)

            def make_rpc_app(address: Address | None, **options: Any) -> RpcApp:
                rpc = RpcApp(
                    methods,
                    pipeline,
                    times,
                    max_message_bytes=settings.max_message_bytes,
                    open_to_all=() if address is None else open_methods(address),
                    **options,
                )
                self._rpc_apps.append(rpc)
                return rpc

            def make_app(base_url: str) -> ASGIApp:
                return http_app(
                    interactions,
                    make_rpc_app(http_address if self._listens else None),
                    base_url,
                    pipeline,
                    cors_origins=settings.http_cors_origins,
                    is_ready=lambda: health.is_serving,
                )

            if not self._listens:
                self.app = make_app(settings.public_url or http_address.url("http"))
            if self._listens and settings.grpc:
                await self._start_grpc(
                    make_rpc_app,
                    lambda **given: GrpcServer(
                        methods,
                        pipeline,
                        times,
                        on_restart=health_servicer.end_watches,
                        **given,
                    ),
                    certificates,
                )
            if self._listens and settings.http:
                await self._start_http(make_app, certificates)
            await health.start()
            self._liveness.watch("the probing of the store", health.failure())
            if self._worker in (None, 1):
                retention.start()
            self._has_started = True
            self._cleanups = cleanups.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._cleanups.aclose()

    def _start_metrics(self, cleanups: AsyncExitStack) -> None:
        metrics = MetricsServer(Address.parse(self._settings.metrics_address))
        cleanups.push_async_callback(metrics.stop)
        self.metrics_address = metrics.start()
        self._liveness.watch("the metrics listener", metrics.failure())

    async def _start_grpc(
        self,
        make_rpc_app: Callable[..., RpcApp],
        make_grpcio: Callable[..., GrpcServer],
        certificates: Certificates | None,
    ) -> None:
        settings = self._settings
        address, names = Address.parse(settings.grpc_address), settings.tls_client_names
        given: dict[str, Any] = {
            "address": address,
            "limits": _grpc_limits(settings),
            "certificates": certificates,
            "reuse_port": self._is_worker,
        }
        grpc: GrpcServer | H2cornServer
        if settings.grpc_engine == "h2corn":
            app = make_rpc_app(address, allowed_names=names)
            grpc = _h2corn_server()(app, **given)
        else:
            grpc = make_grpcio(open_to_all=open_methods(address), allowed_names=names, **given)
        self.grpc_address = await grpc.start()
        self._listening.append(grpc)
        self._liveness.watch("the gRPC listener", grpc.failure())

    async def _start_http(
        self, make_app: Callable[[str], ASGIApp], certificates: Certificates | None
    ) -> None:
        settings = self._settings
        http = HttpServer(
            make_app,
            Address.parse(settings.http_address),
            base_url=settings.public_url,
            limits=HttpLimits(
                max_header_bytes=settings.max_header_bytes,
                max_connections=settings.max_connections,
                header_timeout_seconds=settings.header_timeout_seconds,
                connection_idle_seconds=settings.connection_idle_seconds,
            ),
            render_error=error_response,
            ssl_context=None if certificates is None else certificates.ssl_context,
            reuse_port=self._is_worker,
        )
        self.http_address = await http.start()
        self._listening.append(http)
        self._liveness.watch("the HTTP listener", http.failure())

    async def _drain(self, health: Health) -> None:
        """Report unhealthy, keep serving for the drain delay, then drain both transports.

        During the delay load balancers stop sending calls to this server.
        """
        await health.stop()
        if self._has_started:
            await asyncio.sleep(self._settings.drain_delay_seconds)
        for rpc in self._rpc_apps:
            rpc.end_streams()
        drains = (server.drain(self._settings.drain_seconds) for server in self._listening)
        results = await asyncio.gather(*drains, return_exceptions=True)
        for result in results:  # raised only after both have drained
            if isinstance(result, BaseException):
                raise result


def _grpc_limits(settings: Settings) -> GrpcLimits:
    return GrpcLimits(
        max_message_bytes=settings.max_message_bytes,
        max_header_bytes=settings.max_header_bytes,
        max_streams_per_connection=settings.max_streams_per_connection,
        max_connections=settings.max_connections,
        header_timeout_seconds=settings.header_timeout_seconds,
        connection_idle_seconds=settings.connection_idle_seconds,
        connection_age_seconds=settings.connection_age_seconds,
        max_calls=settings.max_concurrent_calls + settings.max_waiting_calls,
        drain_seconds=settings.drain_seconds,
        keepalive_seconds=settings.keepalive_seconds,
    )


def _h2corn_server() -> "type[H2cornServer]":
    """Return the server of the engine h2corn. Raises SettingsError if it is not installed."""
    try:
        from interaction_svc.transports.h2corn.server import H2cornServer  # noqa: PLC0415 optional
    except ModuleNotFoundError as error:
        raise SettingsError(
            "grpc_engine: h2corn is not installed; install interaction-svc[h2corn]"
        ) from error
    return H2cornServer


async def wait_for_signal(end_at_once: Callable[[int], object] = os._exit) -> None:
    """Return at SIGTERM or SIGINT. The next of these signals calls `end_at_once`.

    `end_at_once` gets the exit status, and must end the process; acknowledged writes are not lost.
    Python's default handlers would wait for the threads of open connections.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in signals:
        loop.add_signal_handler(number, end_at_once, 128 + number)


def log_settings(settings: Settings) -> None:
    """Log the settings and the event loop, and warn of unknown settings in the environment."""
    log.info("settings", **settings.redacted(), event_loop=event_loop.NAME)
    known = {f"{ENV_PREFIX}{name.upper()}" for name in (*Settings.model_fields, "config")}
    for name in sorted(os.environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            log.warning("unknown setting in the environment", name=name)
