"""The gRPC server: its services, and how it starts and drains."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from interaction_svc.addresses import Address
from interaction_svc.grpc_api.interceptors import Errors, InFlight
from interaction_svc.grpc_api.interceptors.base import Context
from interaction_svc.grpc_api.servicers import IngestServicer, InteractionServicer
from interaction_svc.interactions import Interactions
from interaction_svc.v1 import ingest_service_pb2, interaction_service_pb2

INTERACTION_SERVICE = interaction_service_pb2.DESCRIPTOR.services_by_name["InteractionService"]
INGEST_SERVICE = ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"]
_SERVICES = (INTERACTION_SERVICE.full_name, INGEST_SERVICE.full_name)
_HEALTH_OF = ("", *_SERVICES)
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

_OPTIONS = [
    # On by default: a second server would bind the same port without a word, and share its calls.
    ("grpc.so_reuseport", 0),
]
_LAST_CALLS_SECONDS = 1.0


class _Health(health.aio.HealthServicer):  # type: ignore[misc] # it has no types
    """The library's servicer, and the List that it lacks."""

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802 the method's name
        """Give the status of every service."""
        asked = health_pb2.HealthCheckRequest
        return health_pb2.HealthListResponse(
            statuses={name: await self.Check(asked(service=name), context) for name in _HEALTH_OF}
        )


class GrpcServer:
    """Serves the API, health, and reflection (v1 and v1alpha)."""

    def __init__(self, interactions: Interactions, address: Address) -> None:
        self._address = address
        self._in_flight = InFlight()
        self._health = _Health()
        self._server = grpc.aio.server(interceptors=[self._in_flight, Errors()], options=_OPTIONS)
        self._server.add_generic_rpc_handlers(_handlers(interactions))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        _add_reflection(self._server)

    async def start(self) -> Address:
        """Listen, and give the address with its real port. Raises OSError if that can't be."""
        # The servicer is born SERVING.
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = self._server.add_insecure_port(str(self._address))
        except RuntimeError as error:
            raise OSError(
                f"can't listen for gRPC on {self._address}: is it this machine's, and free?"
            ) from error
        await self._server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return self._address._replace(port=port)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let those under way finish, and cut them off after this time."""
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(seconds))
        await asyncio.sleep(0)  # so that it refuses calls from here on
        with suppress(TimeoutError):
            await asyncio.wait_for(self._in_flight.idle(), seconds)
        # Stopping is over when all calls are, those that were taken up but had not reached their
        # handlers yet among them; unless there are streams, which would go on for ever.
        await asyncio.wait([stopping], timeout=min(seconds, _LAST_CALLS_SECONDS))
        await self._server.stop(None)
        await stopping
        await self._in_flight.idle()

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in _HEALTH_OF:
            await self._health.set(service, status)


def _handlers(interactions: Interactions) -> tuple[grpc.GenericRpcHandler, ...]:
    """Give the handlers of the two services; their serializers are none: bytes pass through."""
    reading, ingest = InteractionServicer(interactions), IngestServicer(interactions)
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
                "RecordInteraction": unary(ingest.record_interaction),
                "RecordInteractions": streamed(ingest.record_interactions),
            },
        ),
    )


def _add_reflection(server: grpc.aio.Server) -> None:
    """Add reflection in both versions; the library has only v1alpha, whose messages v1 kept."""
    names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    servicer = reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler: Any = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_REFLECTION_V1, {"ServerReflectionInfo": handler}),)
    )
