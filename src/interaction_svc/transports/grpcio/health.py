"""The gRPC health service: the library's servicer with List added and Watch replaced."""

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health, health_pb2

from interaction_svc.domain.errors import Unavailable
from interaction_svc.transports.grpcio.interceptors.chain import Context


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc] # it has no types
    """The library's servicer with List, and with a Watch that does not block status changes.

    The library's Watch holds a lock while it writes, and a change of status needs the same lock.
    A client that does not read would therefore block the change for all clients.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._services = services
        self._changed = asyncio.Event()
        self._generation = 0

    async def set(self, service: str, status: Any) -> None:
        """Set a status, and wake the watchers."""
        await super().set(service, status)
        self._wake()

    def end_watches(self) -> None:
        """End every Watch that is in progress, so that its client connects to the new listener."""
        self._generation += 1
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802 the method's name
        """Write the status of a service now and at each change. Raises Unavailable at its end."""
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        last, generation = None, self._generation
        while generation == self._generation:
            changed = self._changed
            status = self._server_status.get(request.service, unknown)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            await changed.wait()
        raise Unavailable("The listener has been opened again; connect again")

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802 the method's name
        """Return the status of every service."""
        requested = health_pb2.HealthCheckRequest
        return health_pb2.HealthListResponse(
            statuses={
                name: await self.Check(requested(service=name), context) for name in self._services
            }
        )
