"""Rendering of errors as JSON in the vendor's shape."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.domain.errors import Unavailable
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.asgi.client_gone import ClientGoneError
from interaction_svc.transports.asgi.telemetry import UNANSWERED
from interaction_svc.transports.pipeline import ErrorBoundary
from interaction_svc.transports.rest.responses import error_response


class Errors:
    """Middleware that renders errors. An error after the response began ends the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises an error that occurs after its response has begun."""
        request = current_request()
        try:
            with ErrorBoundary(request, passes=ClientGoneError):
                await self._app(scope, receive, send)
                return
        except ClientGoneError:
            request.code = UNANSWERED
            return
        except asyncio.CancelledError:  # at the end of a drain; deadlines have their own error
            request.error = Unavailable("The service is shutting down")
        error = request.error
        assert error is not None  # noqa: S101 the boundary or the branch above has set it
        if request.code != UNANSWERED:
            request.about["cut_off"] = error.reason_name()
            raise error
        await error_response(error, scope["path"])(scope, receive, send)
