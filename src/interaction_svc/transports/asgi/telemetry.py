"""Telemetry of an HTTP request: its context, and its ids and duration on the response.

The middleware is plain ASGI and written for speed. Its `send` returns the server's awaitable
instead of being a coroutine, and it reads the header list once without making a Headers object.
"""

import time
from collections.abc import Awaitable
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interaction_svc.app import consistency
from interaction_svc.telemetry.request_context import (
    REQUEST_ID_HEADER,
    TWILIO_REQUEST_ID,
    RequestContext,
    new_request_id,
    request_id_of,
)
from interaction_svc.telemetry.request_scope import request_scope
from interaction_svc.transports.address import Address

TRANSPORT = "http"

UNANSWERED = "CANCELLED"
"""The code of a request until its response begins, and if its client leaves before the end."""
NO_STORE = (b"cache-control", b"no-store")
"""A header of every response: nearly all hold personal data, and errors pass."""
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_AUTHORIZATION = b"authorization"
_CONSISTENCY = consistency.KEY.encode()
_MAX_LOGGED_PATH = 256


class Telemetry:
    """Builds the request context, logs and counts the request, and adds headers to the response.

    `Twilio-Request-Id` is always in the vendor's form; it is the `X-Request-Id` too, unless the
    caller has sent one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        begun = time.perf_counter()
        sent = authorization = token = None
        for name, value in scope["headers"]:
            if name == _AUTHORIZATION:  # the protocol lets only one pass
                # Credentials are ASCII; an empty text is of no right form.
                authorization = value.decode() if value.isascii() else ""
            elif name == _REQUEST_ID and sent is None:
                sent = value.decode("latin-1")
            elif name == _CONSISTENCY:
                # Two different ones make a list, which is no token.
                text = value.decode("latin-1")
                token = text if token in (None, text) else f"{token}, {text}"
        given = new_request_id() if sent is None else request_id_of(sent)
        is_twilio_form = sent is None or TWILIO_REQUEST_ID.fullmatch(given)
        twilio_request_id = given if is_twilio_form else new_request_id()
        peer = _address(*scope["client"]) if scope["client"] else ""
        about: dict[str, object] = {"path": _logged_path(scope)}
        call = RequestContext(
            TRANSPORT, "other", peer, given, UNANSWERED, authorization,
            consistency=token, about=about,
        )  # fmt: skip
        if twilio_request_id != given:
            about["twilio_request_id"] = twilio_request_id

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                call.code = str(message["status"])
                message["headers"] += (
                    NO_STORE,
                    (b"x-request-id", given.encode()),
                    (b"twilio-request-id", twilio_request_id.encode()),
                    (b"twilio-request-duration", b"%.3f" % (time.perf_counter() - begun)),
                )
            return send(message)

        with request_scope(call):
            await self._app(scope, receive, send_with_headers)


@lru_cache(maxsize=1024)
def _address(host: str, port: int) -> str:
    return str(Address(host, port))


def _logged_path(scope: Scope) -> str:
    # As it was sent, percent-encoded: a terminal that shows the log is not to be commanded.
    sent: str = scope["raw_path"][:_MAX_LOGGED_PATH].decode("ascii", "backslashreplace")
    if sent.isprintable():
        return sent
    return "".join(c if c.isprintable() else "?" for c in sent)
