"""CORS (Fetch standard): the origins whose pages may read responses in a browser."""

from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.app.consistency import CONSISTENCY_HEADER
from interaction_svc.domain.errors import MalformedRequest, ServiceError
from interaction_svc.telemetry.request_context import REQUEST_ID_HEADER, current_request

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_REQUEST_HEADERS = (
    "Authorization", REQUEST_ID_HEADER, CONSISTENCY_HEADER,
    "Content-Type", "Connect-Protocol-Version", "Connect-Timeout-Ms",
    "Grpc-Timeout", "X-Grpc-Web", "X-User-Agent",
)  # fmt: skip
_RESPONSE_HEADERS = (
    "Twilio-Request-Id", "Twilio-Request-Duration", "X-Request-Id", "Retry-After",
    CONSISTENCY_HEADER, "Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin",
)  # fmt: skip


class Cors(CORSMiddleware):
    """Middleware that handles CORS for the allowed origins, and changes no other requests.

    A preflight of an allowed origin is answered here, before authentication, because browsers send
    no credentials with it. Credentials that a browser keeps (`credentials: "include"`) are not
    allowed: a page has to send its own Authorization header.
    """

    def __init__(
        self,
        app: ASGIApp,
        origins: Collection[str],
        render_error: Callable[[ServiceError, str], Response],
    ) -> None:
        """Create the middleware. `render_error` returns the response to a refused preflight."""
        super().__init__(
            app,
            allow_origins=frozenset(origins),
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
        )
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if Headers(scope=scope).get("origin") in self.allow_origins:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the response to a preflight. A refusal has an error body of the API."""
        current_request().method = "preflight"
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        current_request().error = error = MalformedRequest(bytes(response.body).decode())
        return self._render_error(error, "")
