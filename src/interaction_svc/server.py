"""The composition root: builds the service, starts it, and drains it."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import structlog

from interaction_svc.addresses import Address
from interaction_svc.grpc_api import GrpcServer
from interaction_svc.interactions import Interactions
from interaction_svc.rest.app import create_app
from interaction_svc.rest.protocol import HttpLimits
from interaction_svc.rest.server import HttpServer
from interaction_svc.settings import ENV_PREFIX, Settings
from interaction_svc.store import Store, open_store

log = structlog.get_logger()


class Server:
    """The running service.

    Use it as an async context manager: entering starts it, leaving drains it. Entering raises
    StoreError if the store can't be opened, OSError if an address can't be listened on.
    """

    grpc_address: Address | None = None
    """The address that gRPC listens on, with its real port; None: it isn't served."""
    http_address: Address | None = None
    """The address that HTTP listens on, with its real port; None: it isn't served."""
    store: Store
    ended: asyncio.Future[None]
    """Done when a transport has ended by itself, which it should not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listening: list[GrpcServer | HttpServer] = []
        self.ended = asyncio.get_running_loop().create_future()
        self._cleanups = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self._settings
        async with AsyncExitStack() as cleanups:
            self.store = await open_store(settings.store)
            cleanups.push_async_callback(self.store.close)
            cleanups.push_async_callback(self._drain)
            interactions = Interactions(self.store)
            if settings.grpc:
                grpc = GrpcServer(interactions, Address.parse(settings.grpc_address))
                self.grpc_address = await grpc.start()
                self._listening.append(grpc)
            if settings.http:
                http = HttpServer(
                    lambda base_url: create_app(
                        interactions, base_url, is_draining=lambda: http.is_draining
                    ),
                    Address.parse(settings.http_address),
                    base_url=settings.public_url,
                    limits=HttpLimits(
                        max_header_bytes=settings.max_header_bytes,
                        max_connections=settings.max_connections,
                        slow_sender_seconds=settings.slow_sender_seconds,
                        connection_idle_seconds=settings.connection_idle_seconds,
                    ),
                )
                self.ended = http.ended
                self.http_address = await http.start()
                self._listening.append(http)
            self._cleanups = cleanups.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._cleanups.aclose()

    async def _drain(self) -> None:
        """Drain both transports at once; the store is closed when no call is left."""
        drains = (server.drain(self._settings.drain_seconds) for server in self._listening)
        results = await asyncio.gather(*drains, return_exceptions=True)
        for result in results:  # only now: one's failure must not cut the other's calls off
            if isinstance(result, BaseException):
                raise result


async def wait_for_signal() -> None:
    """Return at SIGTERM or SIGINT. The next one ends the process at once, which loses nothing.

    Python's own handlers would not: the threads of connections that stay open hold it up.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in signals:
        loop.add_signal_handler(number, os._exit, 128 + number)


def log_settings(settings: Settings) -> None:
    """Log the settings in force, and what the environment has that is none of them."""
    log.info("settings", **settings.redacted())
    known = {f"{ENV_PREFIX}{name.upper()}" for name in (*Settings.model_fields, "config")}
    for name in sorted(os.environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            log.warning("unknown setting in the environment", name=name)
