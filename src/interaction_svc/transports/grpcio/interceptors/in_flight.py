"""Counts the calls in progress, so that a drain can wait for them.

grpc.aio's own `stop` can return while a handler still runs, and it waits for streams that never
end, such as health's Watch.
"""

import asyncio
from typing import Any

from interaction_svc.transports.grpcio.interceptors.chain import Behavior, Context, Interceptor
from interaction_svc.transports.operations import Operation


class InFlight(Interceptor):
    """Counts the calls of operations that need a permission: those on Interactions."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def around(self, operation: Operation, behavior: Behavior) -> Behavior:
        """Count calls."""
        if operation.permission is None:
            return behavior

        async def counted(request: Any, context: Context) -> Any:
            self._count += 1
            self._idle.clear()
            try:
                return await behavior(request, context)
            finally:
                self._count -= 1
                if not self._count:
                    self._idle.set()

        return counted

    async def idle(self) -> None:
        """Return when no call is in progress."""
        await self._idle.wait()
