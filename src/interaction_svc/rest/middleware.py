"""What every HTTP request goes through, from the outside in: see create_app."""

import secrets
import time
from collections.abc import Callable
from typing import ClassVar

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interaction_svc.credentials import caller_of
from interaction_svc.errors import Internal, ServiceError, Unauthenticated, Unavailable
from interaction_svc.rest.responses import error_response

log = structlog.get_logger()


class TwilioHeaders:
    """Puts `Twilio-Request-Id` and `Twilio-Request-Duration` (seconds) on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        begun = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Twilio-Request-Id"] = f"RQ{secrets.token_hex(16)}"
                headers["Twilio-Request-Duration"] = f"{time.perf_counter() - begun:.3f}"
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Errors:
    """Turns what a request raises into the contract's JSON; what is no error of ours is masked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        begun = False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ServiceError as raised:
            error = raised
        except Exception as cause:
            error = Internal()
            log.exception("internal error", reference=error.reference, exc_info=cause)
        else:
            return
        if begun:  # half a response can't be mended: the server ends the connection
            raise error
        await error_response(error, scope["path"])(scope, receive, send)


class RefuseWhileDraining:
    """Answers 503 on connections that are still open when the service is stopping."""

    def __init__(self, app: ASGIApp, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if self._is_draining():
            raise Unavailable("The service is shutting down")
        await self._app(scope, receive, send)


class Authenticate:
    """Reads who is calling into `scope["state"]["caller"]`.

    Before anything else is looked at, so that who has no credentials learns nothing.
    """

    PREFIX: ClassVar = "/v1/"

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["path"].startswith(self.PREFIX):
            authorization = Headers(scope=scope).get("authorization")
            if authorization is None:
                raise Unauthenticated
            scope.setdefault("state", {})["caller"] = caller_of(authorization)
        await self._app(scope, receive, send)
