"""The service as an ASGI application, for use with another ASGI server.

    hypercorn interaction_svc.asgi:create_app()

The server must support the lifespan protocol. It must also limit connections, headers and slow
clients, and refuse ambiguous requests, as `interaction-svc serve` does.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.runtime.server import Server
from interaction_svc.runtime.settings import Settings, load_settings
from interaction_svc.telemetry.logs import configure_logs

__all__ = ["create_app"]


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Return the application: REST, Connect, gRPC-Web, and gRPC if the server sends trailers.

    If `settings` is None, the settings are read from the environment. A caller needs a key, unless
    the setting `insecure` is true and the store has never had a key. Raises SettingsError.
    """
    return _Application(settings or load_settings())


class _Application:
    """Starts the service at the lifespan startup event, and stops it at the shutdown event."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or the lifespan. Raises RuntimeError for a request before its startup."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        elif self._app is None:
            raise RuntimeError("the service has not started: the ASGI server needs a lifespan")
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        configure_logs(self._settings.log_level)
        await receive()  # lifespan.startup
        server = Server(self._settings, listens=False)
        try:
            await server.__aenter__()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        try:
            self._app = server.app
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        finally:
            self._app = None
            await server.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})
