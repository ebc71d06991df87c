"""What every HTTP request goes through, from the outside in: see create_app.

Each is plain ASGI and does its part for every request, so they are written for speed: a `send` that
adds something is no coroutine of its own but hands on the server's, and what is looked for in the
headers of a request is looked for there, without making an object of them.
"""

import asyncio
import time
from collections.abc import Awaitable
from functools import lru_cache

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.deadline import SharedDeadline
from interaction_svc.app import consistency
from interaction_svc.domain.errors import (
    DeadlineExceeded,
    Internal,
    MethodNotAllowed,
    ServiceError,
    Unavailable,
    UnknownPath,
)
from interaction_svc.telemetry.request_context import (
    REQUEST_ID_HEADER,
    TWILIO_REQUEST_ID,
    RequestContext,
    current_request,
    new_request_id,
    request_id_of,
)
from interaction_svc.telemetry.request_scope import request_scope
from interaction_svc.transports.address import Address
from interaction_svc.transports.http1.request_cycle import ClientGoneError
from interaction_svc.transports.rest.responses import NO_STORE, error_response

log = structlog.get_logger()

TRANSPORT = "http"
API_PREFIX = "/v1/"
"""What the guards stand before; what else is served says nothing of Interactions."""

_UNANSWERED = "CANCELLED"
"""The code of a call until its response begins, and of one whose client goes before its end."""
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_AUTHORIZATION = b"authorization"
_CONSISTENCY = consistency.KEY.encode()
_MAX_LOGGED_PATH = 256


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
            TRANSPORT, "other", peer, given, _UNANSWERED, authorization,
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


class Errors:
    """Turns what a request raises into the contract's JSON; what is no error of ours is masked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        try:
            await self._app(scope, receive, send)
        except ClientGoneError:
            current_request().code = _UNANSWERED
            return
        except HTTPException as refusal:
            await _refused(refusal, scope)(scope, receive, send)
            return
        except ServiceError as raised:
            error = raised.with_traceback(None)  # which holds on to what the call has made
        except asyncio.CancelledError:  # at the end of a drain: deadlines have their own error
            error = Unavailable("The service is shutting down")
        except Exception as cause:
            error = Internal()
            log.exception("internal error", reference=error.reference, exc_info=cause)
        else:
            return
        call = current_request()
        call.error = error
        if call.code != _UNANSWERED:  # half a response can't be mended: the connection ends
            call.about["cut_off"] = error.reason_name()
            raise error
        await error_response(error, scope["path"])(scope, receive, send)


class Admit:
    """Holds a place for each request within the limit, and ends what takes too long."""

    def __init__(self, app: ASGIApp, admission: AdmissionControl) -> None:
        self._app = app
        self._guards = admission
        self._deadline = SharedDeadline(admission.deadline_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if not scope["path"].startswith(API_PREFIX):
            await self._app(scope, receive, send)
            return
        with self._guards.concurrency.slot():
            try:
                with self._deadline:
                    await self._app(scope, receive, send)
            except TimeoutError as error:
                raise DeadlineExceeded from error


class Authenticate:
    """Puts the caller into the Call, and counts it against its rate.

    Before anything else is looked at, so that who has no credentials learns nothing. Over HTTP
    there are always credentials, as the vendor has it, even where no key is needed.
    """

    def __init__(self, app: ASGIApp, admission: AdmissionControl) -> None:
        self._app = app
        self._guards = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["path"].startswith(API_PREFIX):
            call = current_request()
            # An empty one is of no right form; None would be let in where no key is needed.
            shown = call.authorization or ""
            call.principal = await self._guards.authenticator.authenticate(shown, call.peer)
            self._guards.call_rate.count(call.principal)
            concurrency = self._guards.concurrency
            concurrency.begin(call.principal)
            try:
                await self._app(scope, receive, send)
            finally:
                concurrency.end(call.principal)
        else:
            await self._app(scope, receive, send)


@lru_cache(maxsize=1024)
def _address(host: str, port: int) -> str:
    return str(Address(host, port))


def _logged_path(scope: Scope) -> str:
    # As it was sent, percent-encoded: a terminal that shows the log is not to be commanded.
    sent: str = scope["raw_path"][:_MAX_LOGGED_PATH].decode("ascii", "backslashreplace")
    if sent.isprintable():
        return sent
    return "".join(c if c.isprintable() else "?" for c in sent)


def _refused(refusal: HTTPException, scope: Scope) -> Response:
    """Render what the framework itself refuses: a path, or a method on one."""
    if refusal.status_code == 405:
        allow = ", ".join(sorted((refusal.headers or {})["Allow"].split(", ")))
        error = MethodNotAllowed(f"Method {scope['method']} is not allowed on this resource")
        return error_response(error, scope["path"], allow)
    return error_response(UnknownPath("Not found"), scope["path"])
