"""Telemetry of HTTP requests: their context, and the ids and duration on their responses."""

import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interaction_svc.app.consistency import CONSISTENCY_HEADER
from interaction_svc.telemetry.request_context import (
    REQUEST_ID_HEADER,
    TWILIO_REQUEST_ID,
    RequestContext,
    new_request_id,
    request_id_of,
)
from interaction_svc.telemetry.request_scope import request_scope
from interaction_svc.transports.address import Address
from interaction_svc.transports.asgi.router import Router

TRANSPORT = "http"

UNANSWERED = "CANCELLED"
"""The code of a request without a response, or whose client disconnects before its end."""
NO_STORE = (b"cache-control", b"no-store")
"""A header of every response, because most contain personal data, and errors are temporary."""
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_AUTHORIZATION = b"authorization"
_CONSISTENCY = CONSISTENCY_HEADER.encode()
_MAX_LOGGED_PATH = 256


class Telemetry:
    """Routes a request, builds its context, logs and counts it, and adds headers to the response.

    `Twilio-Request-Id` always has the vendor's form. `X-Request-Id` has the same value unless the
    caller has sent its own.
    """

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self._app = app
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        begun = time.perf_counter()
        sent = authorization = token = None
        for name, value in scope["headers"]:
            if name == _AUTHORIZATION:
                # Credentials must be ASCII and sent once. Otherwise the empty text marks them as
                # malformed.
                is_valid = authorization is None and value.isascii()
                authorization = value.decode() if is_valid else ""
            elif name == _REQUEST_ID and sent is None:
                sent = value.decode("latin-1")
            elif name == _CONSISTENCY:
                # Two different tokens become a list, which is no valid token.
                text = value.decode("latin-1")
                token = text if token in (None, text) else f"{token}, {text}"
        given = new_request_id() if sent is None else request_id_of(sent)
        is_twilio_form = sent is None or TWILIO_REQUEST_ID.fullmatch(given)
        twilio_request_id = given if is_twilio_form else new_request_id()
        peer = str(Address(*scope["client"])) if scope["client"] else ""
        about: dict[str, object] = {"path": _logged_path(scope)}
        operation = self._router.route(scope)
        call = RequestContext(
            TRANSPORT, operation.http_name, peer, given, UNANSWERED, authorization,
            consistency=token, is_quiet=operation.is_quiet, about=about,
        )  # fmt: skip
        if twilio_request_id != given:
            about["twilio_request_id"] = twilio_request_id

        def send_with_headers(message: Message) -> Awaitable[None]:  # no async: saves a coroutine
            if message["type"] == "http.response.start":
                call.code = str(message["status"])
                message["headers"] += (
                    NO_STORE,
                    (b"x-request-id", given.encode()),
                    (b"twilio-request-id", twilio_request_id.encode()),
                    (b"twilio-request-duration", b"%.3f" % (time.perf_counter() - begun)),
                )
                if call.written is not None:
                    message["headers"].append((_CONSISTENCY, call.written.encode()))
            return send(message)

        with request_scope(call):
            await self._app(scope, receive, send_with_headers)


def _logged_path(scope: Scope) -> str:
    # The path as it was sent, percent-encoded: a terminal that shows the log could interpret
    # decoded control characters.
    sent: str = scope["raw_path"][:_MAX_LOGGED_PATH].decode("ascii", "backslashreplace")
    if sent.isprintable():
        return sent
    return "".join(c if c.isprintable() else "?" for c in sent)
