"""The gRPC server: its services, and how it starts and drains."""

import asyncio
import errno
import os
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from interaction_svc.admission.control import AdmissionControl
from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.domain.principals import Permission
from interaction_svc.runtime.liveness import CHECK_SECONDS
from interaction_svc.runtime.settings import Settings
from interaction_svc.transports.address import Address
from interaction_svc.transports.grpcio import reflection
from interaction_svc.transports.grpcio.interceptors import (
    Admit,
    Authenticate,
    Chain,
    Errors,
    InFlight,
    Observe,
    Times,
)
from interaction_svc.transports.grpcio.interceptors.chain import Context
from interaction_svc.transports.grpcio.self_probe import SelfProbe, comes_by_probe_socket
from interaction_svc.transports.rpc.interaction_service import IngestServicer, InteractionServicer
from interaction_svc.transports.sockets import (
    Listener,
    addresses_of,
    bind,
    cannot_listen,
    listeners_on,
)
from interaction_svc.transports.tls import Certificates, subject_names
from interaction_svc.v1 import ingest_service_pb2, interaction_service_pb2

INTERACTION_SERVICE = interaction_service_pb2.DESCRIPTOR.services_by_name["InteractionService"]
INGEST_SERVICE = ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"]
_SERVICES = (INTERACTION_SERVICE.full_name, INGEST_SERVICE.full_name)
_HEALTH_OF = ("", *_SERVICES)
RIGHTS = {
    f"/{INTERACTION_SERVICE.full_name}/GetInteraction": Permission.READ,
    f"/{INTERACTION_SERVICE.full_name}/ListInteractions": Permission.READ,
    f"/{INTERACTION_SERVICE.full_name}/DeleteInteraction": Permission.DELETE,
    f"/{INGEST_SERVICE.full_name}/RecordInteraction": Permission.INGEST,
    f"/{INGEST_SERVICE.full_name}/RecordInteractions": Permission.INGEST,
}

_WITHOUT_END_SECONDS = 7 * 24 * 3600.0
"""How long grpc may leave calls alone once it stops: the time of a drain is measured here.

If its own time ended while it is told to cut calls off, it would cancel those of a server that is
gone by then, and crash.
"""
_LAST_CALLS_SECONDS = 1.0
_KEEPALIVE_TIMEOUT_SECONDS = 20
_CLIENT_PING_SECONDS = 10
_AGE_GRACE_SECONDS = 60
_WAITING_CALLS = 512
_MOST_WAITING_CALLS = 1024
"""How many calls wait to be taken up by Python: from the first on they are refused at random.

To take a call up and refuse it costs as much as to serve it, so that under overload only grpc's own
queue can refuse cheaply; it says CANCELLED. By default it is three times as long, and those served
would wait for seconds in it (docs/overload.md). Health has a queue of its own.
"""


class _Health(health.aio.HealthServicer):  # type: ignore[misc] # it has no types
    """The library's servicer, with the List that it lacks, and a Watch that holds nobody up.

    The library's writes under the lock that a change of status needs: a watcher that takes nothing
    would keep the status from ever changing again, for everyone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    async def set(self, service: str, status: Any) -> None:
        """Set a status, and wake the watchers."""
        await super().set(service, status)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802 the method's name
        """Write the status of a service, and whenever it changes."""
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        last = None
        while True:
            changed = self._changed
            status = self._server_status.get(request.service, unknown)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            await changed.wait()

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802 the method's name
        """Give the status of every service."""
        asked = health_pb2.HealthCheckRequest
        return health_pb2.HealthListResponse(
            statuses={name: await self.Check(asked(service=name), context) for name in _HEALTH_OF}
        )


class GrpcServer:
    """Serves the API, health, and reflection (v1 and v1alpha)."""

    def __init__(
        self,
        interactions: Interactions,
        ingest: Ingest,
        settings: Settings,
        admission: AdmissionControl,
        certificates: Certificates | None,
        *,
        reuse_port: bool = False,
    ) -> None:
        """Listen, once started, beside others of this user on the port if it is shared."""
        self._address = Address.parse(settings.grpc_address)
        self._certificates = certificates
        self._shares_port = reuse_port
        self._listeners: list[Listener] = []
        self._allowed_names = frozenset(settings.tls_client_names)
        self._in_flight = InFlight(frozenset(RIGHTS))
        self._health = _Health()
        admit = Admit(
            admission.concurrency,
            Times(
                admission.deadline_seconds, settings.stream_idle_seconds, settings.stream_seconds
            ),
            admission.unsent,
            reads=frozenset(method for method, right in RIGHTS.items() if right is Permission.READ),
            exempt=reflection.METHODS,
        )
        authenticate = Authenticate(
            admission.authenticator,
            admission.concurrency,
            admission.call_rate,
            RIGHTS,
            unguarded=reflection.METHODS if self._address.is_loopback else frozenset(),
            is_peer_allowed=self._is_peer_allowed,
        )
        chain = Chain(
            [self._in_flight, Observe(), Errors(), admit, authenticate], refuses=admit.refuses
        )
        chain.add_generic_rpc_handlers(_handlers(interactions, ingest))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, chain)
        reflection.add_reflection(chain, _SERVICES)
        self._probe = SelfProbe()
        self._server = grpc.aio.server(
            handlers=[self._probe, chain], options=_options(settings, reuse_port=reuse_port)
        )
        for service, handlers in chain.registered.items():  # health among them: see _WAITING_CALLS
            self._server.add_registered_method_handlers(service, handlers)

    async def start(self) -> Address:
        """Listen, and give the address with its real port. Raises OSError if that can't be."""
        # The servicer is born SERVING.
        await self.set_serving(False)
        try:
            address = self._address if self._shares_port else _with_free_port(self._address)
            for one in addresses_of(address):
                self._add_port(one)
        except OSError as error:
            raise cannot_listen("gRPC", self._address, error) from error
        self._probe.listen(self._server)
        await self._server.start()
        self._listeners = listeners_on(address.port)
        await self._probe.finds_silence()  # which connects it, before strangers can
        return address

    def _add_port(self, address: Address) -> None:
        try:
            if self._certificates is None:
                self._server.add_insecure_port(str(address))
            else:
                credentials = self._certificates.grpc_credentials
                self._server.add_secure_port(str(address), credentials)
        except RuntimeError as error:  # it was free a moment ago; gRPC doesn't say why it isn't
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from error

    async def set_serving(self, is_serving: bool) -> None:
        """Let health say whether the services are serving."""
        statuses = health_pb2.HealthCheckResponse
        for service in _HEALTH_OF:
            await self._health.set(
                service, statuses.SERVING if is_serving else statuses.NOT_SERVING
            )

    async def failure(self) -> str:
        """Return why the listener has ended, once it has by itself."""
        while True:
            try:
                # Raises what has ended grpc's accept loop, which grpc itself only logs.
                is_running = await self._server.wait_for_termination(CHECK_SECONDS)
            except Exception as error:
                return f"{type(error).__name__} in grpc's accept loop"
            if not is_running:
                return "grpc has stopped it"
            if not all(listener.listens() for listener in self._listeners):
                return "its socket is closed"
            if await self._probe.finds_silence():
                return "it answers no calls"

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let those under way finish, and cut them off after this time."""
        stopping = asyncio.create_task(self._server.stop(_WITHOUT_END_SECONDS))
        await asyncio.sleep(0)  # so that it refuses calls from here on
        with suppress(TimeoutError):
            await asyncio.wait_for(self._in_flight.idle(), seconds)
        # Stopping is over when all calls are, those that were taken up but had not reached their
        # handlers yet among them; unless there are streams, which would go on for ever.
        await asyncio.wait([stopping], timeout=min(seconds, _LAST_CALLS_SECONDS))
        await self._server.stop(None)
        await asyncio.wait([stopping])  # which fails with what has ended the accept loop, if so
        await self._in_flight.idle()
        await self._probe.close()

    def _is_peer_allowed(self, context: Context) -> bool:
        if comes_by_probe_socket(context):
            return False
        return not self._allowed_names or not self._allowed_names.isdisjoint(
            subject_names(context.auth_context())
        )


def _with_free_port(address: Address) -> Address:
    """Return the address with its port, or a free one for 0. Raises OSError, which says why not."""
    bound = bind(address)
    port = bound[0].getsockname()[1]
    for one in bound:
        one.close()
    return address._replace(port=port)


def _options(settings: Settings, *, reuse_port: bool) -> list[tuple[str, int]]:
    def ms(seconds: float) -> int:
        return round(seconds * 1000)

    options = [
        # On by default: a second server would bind the same port without a word, and share its
        # calls. Only the workers of a group do.
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # The first is from where on requests are refused at random, the second is the limit.
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server.max_pending_requests", _WAITING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_WAITING_CALLS),
        ("grpc.server_handshake_timeout_ms", ms(settings.slow_sender_seconds)),
        ("grpc.max_connection_idle_ms", ms(settings.connection_idle_seconds)),
        ("grpc.keepalive_time_ms", ms(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", ms(_KEEPALIVE_TIMEOUT_SECONDS)),
        # How often clients may ask in turn, whether they have calls or not.
        ("grpc.http2.min_ping_interval_without_data_ms", ms(_CLIENT_PING_SECONDS)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if settings.connection_age_seconds:
        options += [
            ("grpc.max_connection_age_ms", ms(settings.connection_age_seconds)),
            ("grpc.max_connection_age_grace_ms", ms(_AGE_GRACE_SECONDS)),
        ]
    return options


def _handlers(interactions: Interactions, ingest: Ingest) -> tuple[grpc.GenericRpcHandler, ...]:
    """Give the handlers of the two services; their serializers are none: bytes pass through."""
    reading, recording = InteractionServicer(interactions), IngestServicer(ingest)
    unary: Any = grpc.unary_unary_rpc_method_handler
    streamed: Any = grpc.stream_unary_rpc_method_handler
    return (
        grpc.method_handlers_generic_handler(
            INTERACTION_SERVICE.full_name,
            {
                "GetInteraction": unary(reading.get_interaction),
                "ListInteractions": unary(reading.list_interactions),
                "DeleteInteraction": unary(reading.delete_interaction),
            },
        ),
        grpc.method_handlers_generic_handler(
            INGEST_SERVICE.full_name,
            {
                "RecordInteraction": unary(recording.record_interaction),
                "RecordInteractions": streamed(recording.record_interactions),
            },
        ),
    )
