"""grpc.health.v1.Health, independent of the engine that serves it."""

import asyncio
from collections.abc import AsyncIterator, Collection

from grpc_health.v1 import health_pb2

from interaction_svc.domain.errors import Unavailable, UnknownPath
from interaction_svc.transports.operations import HEALTH, Operation
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.rpc.requests import parse_request

_CHECK, _LIST, _WATCH = HEALTH
_STATUSES = health_pb2.HealthCheckResponse


class HealthServicer:
    """The health of the services, which all have the same status. It is NOT_SERVING at first."""

    def __init__(self, services: Collection[str]) -> None:
        """Create the servicer. The empty name, which stands for the whole server, is added."""
        self._services = ("", *services)
        self._status = _STATUSES.NOT_SERVING
        self._changed = asyncio.Event()
        self._generation = 0

    async def set_serving(self, is_serving: bool) -> None:
        """Set the status to SERVING or NOT_SERVING, and wake the watchers."""
        self._status = _STATUSES.SERVING if is_serving else _STATUSES.NOT_SERVING
        self._wake()

    def end_watches(self) -> None:
        """End every Watch that is in progress, so that its client connects again."""
        self._generation += 1
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def check(self, request: bytes) -> bytes:
        """Serve Check. Raises UnknownPath for an unknown service."""
        if parse_request(health_pb2.HealthCheckRequest, request).service not in self._services:
            raise UnknownPath("There is no such service")
        return self._response(self._status)

    async def list(self, request: bytes) -> bytes:
        """Serve List."""
        parse_request(health_pb2.HealthListRequest, request)
        status = _STATUSES(status=self._status)
        response = health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, status))
        return bytes(response.SerializeToString())

    async def watch(self, request: bytes) -> AsyncIterator[bytes]:
        """Serve Watch: yield the status of a service now and at each change.

        Raises Unavailable at `end_watches`.
        """
        service = parse_request(health_pb2.HealthCheckRequest, request).service
        last, generation = None, self._generation
        while generation == self._generation:
            changed = self._changed
            is_known = service in self._services
            status = self._status if is_known else _STATUSES.SERVICE_UNKNOWN
            if status != last:
                yield self._response(status)
                last = status
            await changed.wait()
        raise Unavailable("The listener has been opened again; connect again")

    def methods(self) -> dict[Operation, Method]:
        """Return the methods by operation."""
        check, list_ = health_pb2.HealthCheckRequest, health_pb2.HealthListRequest
        return {
            _CHECK: Method(self.check, check, _STATUSES),
            _LIST: Method(self.list, list_, health_pb2.HealthListResponse),
            _WATCH: Method(self.watch, check, _STATUSES),
        }

    @staticmethod
    def _response(status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> bytes:
        return bytes(_STATUSES(status=status).SerializeToString())
