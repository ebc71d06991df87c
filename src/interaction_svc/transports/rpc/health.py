"""grpc.health.v1.Health with one request and one response, for engines without grpc's servicer."""

from collections.abc import Callable, Collection

from grpc_health.v1 import health_pb2

from interaction_svc.domain.errors import UnknownPath
from interaction_svc.transports.operations import HEALTH, Operation
from interaction_svc.transports.rpc.methods import UnaryMethod
from interaction_svc.transports.rpc.requests import parse_request

_CHECK, _LIST, _ = HEALTH


def health_methods(
    is_serving: Callable[[], bool], services: Collection[str]
) -> dict[Operation, UnaryMethod]:
    """Return Check and List. All services have the same status. Watch is a stream."""

    def status() -> health_pb2.HealthCheckResponse:
        statuses = health_pb2.HealthCheckResponse
        return statuses(status=statuses.SERVING if is_serving() else statuses.NOT_SERVING)

    async def check(request: bytes) -> bytes:
        if parse_request(health_pb2.HealthCheckRequest, request).service not in services:
            raise UnknownPath("There is no such service")
        return bytes(status().SerializeToString())

    async def list_(request: bytes) -> bytes:
        parse_request(health_pb2.HealthListRequest, request)
        statuses = {name: status() for name in services}
        return bytes(health_pb2.HealthListResponse(statuses=statuses).SerializeToString())

    return {
        _CHECK: UnaryMethod(check, health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
        _LIST: UnaryMethod(list_, health_pb2.HealthListRequest, health_pb2.HealthListResponse),
    }
