"""What every HTTP request goes through, from the outside in: see create_app."""

import asyncio
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interaction_svc.addresses import Address
from interaction_svc.calls import (
    REQUEST_ID_HEADER,
    TWILIO_REQUEST_ID,
    Call,
    new_request_id,
    request_id_of,
    this_call,
)
from interaction_svc.errors import DeadlineExceeded, Internal, ServiceError, Unavailable
from interaction_svc.guards import Guards
from interaction_svc.observation import observed
from interaction_svc.rest.responses import error_response

log = structlog.get_logger()

TRANSPORT = "http"
API_PREFIX = "/v1/"
"""What the guards stand before; what else is served says nothing of Interactions."""

_MAX_LOGGED_PATH = 256
_UNTAKEN_BYTES = 64 * 1024
"""What asyncio holds of an answer before the one who sends has to wait."""


class Observe:
    """Names the request, observes how it ends, and puts its ids and duration on the response.

    `Twilio-Request-Id` is always in the vendor's form; it is the `X-Request-Id` too, unless the
    caller has sent one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        begun = time.perf_counter()
        given = request_id_of(Headers(scope=scope).get(REQUEST_ID_HEADER))
        twilio_request_id = given if TWILIO_REQUEST_ID.fullmatch(given) else new_request_id()
        peer = str(Address(*scope["client"])) if scope["client"] else ""
        call = Call(TRANSPORT, "other", peer, given, code="CANCELLED")  # until there is a response
        # As it was sent, percent-encoded: a terminal that shows the log is not to be commanded.
        sent = scope["raw_path"][:_MAX_LOGGED_PATH].decode("ascii", "backslashreplace")
        call.about["path"] = "".join(c if c.isprintable() else "?" for c in sent)
        if twilio_request_id != given:
            call.about["twilio_request_id"] = twilio_request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.code = str(message["status"])
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = given
                headers["Twilio-Request-Id"] = twilio_request_id
                headers["Twilio-Request-Duration"] = f"{time.perf_counter() - begun:.3f}"
            await send(message)

        with observed(call):
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
            error = raised.with_traceback(None)  # which holds on to what the call has made
        except asyncio.CancelledError:  # at the end of a drain: deadlines have their own error
            error = Unavailable("The service is shutting down")
        except Exception as cause:
            error = Internal()
            log.exception("internal error", reference=error.reference, exc_info=cause)
        else:
            return
        this_call().error = error
        if begun:  # half a response can't be mended: the server ends the connection
            raise error
        await error_response(error, scope["path"])(scope, receive, send)


class Admit:
    """Holds a place for each request within the limit, and ends what takes too long."""

    def __init__(self, app: ASGIApp, guards: Guards) -> None:
        self._app = app
        self._guards = guards

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if not scope["path"].startswith(API_PREFIX):
            await self._app(scope, receive, send)
            return

        async def send_until_taken(message: Message) -> None:
            if len(message.get("body", b"")) > _UNTAKEN_BYTES:
                # The server waits before it sends, not after: so an empty end is sent as well, when
                # the client has taken the rest, and until then the place is held.
                await send({**message, "more_body": True})
                message = {"type": message["type"], "body": b""}
            await send(message)

        with self._guards.concurrency.slot():
            try:
                async with asyncio.timeout(self._guards.deadline_seconds):
                    await self._app(scope, receive, send_until_taken)
            except TimeoutError as error:
                raise DeadlineExceeded from error


class Authenticate:
    """Puts the caller into the Call, and counts it against its rate.

    Before anything else is looked at, so that who has no credentials learns nothing. Over HTTP
    there are always credentials, as the vendor has it, even where no key is needed.
    """

    def __init__(self, app: ASGIApp, guards: Guards) -> None:
        self._app = app
        self._guards = guards

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["path"].startswith(API_PREFIX):
            call = this_call()
            # An empty one is of no right form; None would be let in where no key is needed.
            authorization = Headers(scope=scope).get("authorization", "")
            call.caller = await self._guards.authenticator.caller(authorization, call.peer)
            self._guards.call_rate.count(call.caller)
        await self._app(scope, receive, send)
