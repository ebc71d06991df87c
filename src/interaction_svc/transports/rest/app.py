"""The HTTP application: the vendor's three operations on Interactions, and what watches need."""

from collections.abc import Callable, Collection
from urllib.parse import parse_qsl

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.admission.control import AdmissionControl
from interaction_svc.app import consistency
from interaction_svc.app.interactions import Interactions, Page
from interaction_svc.codec import twilio_json
from interaction_svc.codec.twilio_query import parameter_of, read_account, read_parameters
from interaction_svc.domain.errors import InteractionNotFound, InvalidConsistencyToken, InvalidField
from interaction_svc.domain.principals import Permission, Principal
from interaction_svc.domain.sids import Sid
from interaction_svc.store import InteractionKey
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.asgi.cors import Cors
from interaction_svc.transports.asgi.middleware import Admit, Authenticate, Errors, Observe
from interaction_svc.transports.rest import pages
from interaction_svc.transports.rest.json_cache import JsonCache
from interaction_svc.transports.rest.openapi import openapi_document
from interaction_svc.transports.rest.responses import JsonAnswers, json_response

_LIST_PATH = "/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"


class InteractionList:
    """The Interactions of a Session.

    It and InteractionResource are ASGI applications rather than functions of a Request, around
    which Starlette would put 12 microseconds.
    """

    def __init__(
        self,
        interactions: Interactions,
        renderings: JsonCache,
        answers: JsonAnswers,
        base_url: str,
    ) -> None:
        self._interactions = interactions
        self._renderings = renderings
        self._answers = answers
        self._base_url = base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET a page of them."""
        principal = _caller_for("list", Permission.READ)
        service_sid, session_sid = scope["path_params"].values()
        if not (Sid.SERVICE.matches(service_sid) and Sid.SESSION.matches(session_sid)):
            raise InteractionNotFound(scope["path"])
        query = _query(scope)
        request, number, carried = read_parameters(service_sid, session_sid, query)
        token, size = request.page_token, request.page_size
        seen = current_request().consistency

        async def read(token: str, size: int) -> Page:
            request.page_token, request.page_size = token, size
            return await self._interactions.page(
                principal, request, consistency=seen, max_bytes=pages.READ_BYTES
            )

        def end(first: Page, last: Page) -> bytes:
            meta = twilio_json.page_meta(
                twilio_json.list_url(self._base_url, service_sid, session_sid),
                page=number,
                page_size=begun.page_size,
                page_token=token,
                next_page_token=last.next_page_token,
                previous_page_token=first.previous_page_token,
                carried=carried,
            )
            return b'],"meta":%b}' % orjson.dumps(meta)

        try:
            begun = await pages.begin(read, token, size)
        except InvalidField as error:
            raise InvalidField(parameter_of(error.field), error.problem) from error
        page = begun.first
        if not begun.following:
            rows = b",".join(self._renderings.of(page.frames))
            body = b"".join([pages.LIST_BEGIN, rows, end(page, page)])
            await self._answers.send(scope, send, body)
            return
        stream = self._answers.stream(scope, send)
        await stream.start()
        if scope["method"] == "HEAD":
            await stream.send(b"", is_last=True)
        else:
            await pages.send(stream, self._renderings, read, begun, end)


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


class InteractionResource:
    """One Interaction."""

    def __init__(
        self, interactions: Interactions, renderings: JsonCache, answers: JsonAnswers
    ) -> None:
        self._interactions = interactions
        self._renderings = renderings
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET or DELETE it."""
        key = InteractionKey(**scope["path_params"])
        deletes = scope["method"] == "DELETE"
        principal = (
            _caller_for("delete", Permission.DELETE)
            if deletes
            else _caller_for("fetch", Permission.READ)
        )
        account_sid = read_account(_query(scope)) if scope["query_string"] else ""
        try:
            if deletes:
                token = await self._interactions.delete(principal, key, account_sid=account_sid)
                headers = None if token is None else {consistency.KEY: token}
                await Response(status_code=204, headers=headers)(scope, receive, send)
                return
            frame = await self._interactions.get(
                principal, key, account_sid=account_sid, consistency=current_request().consistency
            )
        except InvalidConsistencyToken:
            raise
        except InvalidField as error:  # a malformed SID is a resource that doesn't exist
            raise InteractionNotFound(scope["path"]) from error
        await self._answers.send(scope, send, self._renderings.of_one(frame))


class Description:
    """The OpenAPI document of the API."""

    def __init__(self, base_url: str, answers: JsonAnswers) -> None:
        self._document = orjson.dumps(openapi_document(base_url))
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET it."""
        current_request().method = "openapi"
        await self._answers.send(scope, send, self._document)


class _Application(Starlette):
    def build_middleware_stack(self) -> ASGIApp:
        """Put the middleware around the routes, and nothing more.

        Starlette would add two of its own that turn exceptions into answers, for 15 microseconds a
        request. Errors does that.
        """
        app: ASGIApp = self.router
        for middleware, arguments, options in reversed(self.user_middleware):
            app = middleware(app, *arguments, **options)
        return app


def create_app(
    interactions: Interactions,
    base_url: str,
    admission: AdmissionControl,
    *,
    cors_origins: Collection[str] = (),
    is_ready: Callable[[], bool] = lambda: True,
) -> ASGIApp:
    """Make the application; `base_url` is what all links begin with, without a slash at its end.

    Links are never made from the Host header, which is the caller's to choose. Browsers' pages of
    `cors_origins` may read the answers.
    """
    renderings = JsonCache(base_url)
    answers = JsonAnswers(admission.unsent)
    of_session = InteractionList(interactions, renderings, answers, base_url)
    of_interaction = InteractionResource(interactions, renderings, answers)

    async def healthz(_: Request) -> Response:
        """Say that the process is alive."""
        _name_quietly("healthz")
        return json_response({"status": "ok"})

    async def readyz(_: Request) -> Response:
        """Say whether it can do its work."""
        _name_quietly("readyz")
        if is_ready():
            return json_response({"status": "ok"})
        return json_response({"status": "unavailable"}, 503)

    app = _Application(
        routes=[
            # What is asked for most comes first: every one before it is tried.
            Route(f"{_LIST_PATH}/{{sid}}", of_interaction, methods=["GET", "DELETE"]),
            Route(_LIST_PATH, of_session, methods=["GET"]),
            Route("/openapi.json", Description(base_url, answers), methods=["GET"]),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
        ],
        middleware=[
            # The outermost first: what is refused is observed too, and errors are rendered for all.
            Middleware(Observe),
            *([Middleware(Cors, origins=cors_origins)] if cors_origins else []),
            Middleware(Errors),
            Middleware(Admit, admission=admission),
            Middleware(Authenticate, admission=admission),
        ],
    )
    router: Router = app.router
    router.redirect_slashes = False  # the SDKs take a redirect for success
    return app


def _caller_for(method: str, right: Permission) -> Principal:
    """Name the method of this call, and give the caller. Raises PermissionDenied.

    Asked before anything of the request is looked at.
    """
    call = current_request()
    call.method = method
    call.principal.require(right)
    return call.principal


def _name_quietly(method: str) -> None:
    call = current_request()
    call.method, call.is_quiet = method, True
