"""The HTTP application: the vendor's three operations on Interactions, and what watches need."""

from collections.abc import Callable
from urllib.parse import parse_qsl

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc import consistency
from interaction_svc.calls import this_call
from interaction_svc.credentials import Caller, Right
from interaction_svc.errors import (
    InteractionNotFound,
    InvalidConsistencyToken,
    InvalidField,
)
from interaction_svc.guards import Guards
from interaction_svc.interactions import Interactions
from interaction_svc.rest import adapter
from interaction_svc.rest.middleware import (
    Admit,
    Authenticate,
    Errors,
    Observe,
)
from interaction_svc.rest.openapi import openapi_document
from interaction_svc.rest.parameters import parameter_of, read_parameters
from interaction_svc.rest.rendering import Renderings
from interaction_svc.rest.responses import json_response, send_json
from interaction_svc.sids import Sid
from interaction_svc.store import Key

_LIST_PATH = "/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"


class OfSession:
    """The Interactions of a Session.

    It and OfInteraction are ASGI applications rather than functions of a Request: Starlette would
    put 12 microseconds around one.
    """

    def __init__(self, interactions: Interactions, renderings: Renderings, base_url: str) -> None:
        self._interactions = interactions
        self._renderings = renderings
        self._base_url = base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET a page of them."""
        caller = _caller_for("list", Right.READ)
        service_sid, session_sid = scope["path_params"].values()
        if not (Sid.SERVICE.matches(service_sid) and Sid.SESSION.matches(session_sid)):
            raise InteractionNotFound(scope["path"])
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        wanted, page, carried = read_parameters(service_sid, session_sid, query)
        try:
            found = await self._interactions.page(
                caller, wanted, consistency=this_call().consistency
            )
        except InvalidField as error:
            raise InvalidField(parameter_of(error.field), error.problem) from error
        envelope = adapter.to_envelope(
            [],
            adapter.list_url(self._base_url, service_sid, session_sid),
            page=page,
            page_size=wanted.page_size,
            page_token=wanted.page_token,
            next_page_token=found.next_page_token,
            previous_page_token=found.previous_page_token,
            carried=carried,
        )
        await send_json(send, _joined(self._renderings.of(found.frames), envelope))


class OfInteraction:
    """One Interaction."""

    def __init__(self, interactions: Interactions, renderings: Renderings) -> None:
        self._interactions = interactions
        self._renderings = renderings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET or DELETE it."""
        key = Key(**scope["path_params"])
        try:
            if scope["method"] == "DELETE":
                await self._interactions.delete(_caller_for("delete", Right.DELETE), key)
                token = await self._interactions.consistency()
                headers = None if token is None else {consistency.KEY: token}
                await Response(status_code=204, headers=headers)(scope, receive, send)
                return
            frame = await self._interactions.get(
                _caller_for("fetch", Right.READ), key, consistency=this_call().consistency
            )
        except InvalidConsistencyToken:
            raise
        except InvalidField as error:  # a malformed SID is a resource that doesn't exist
            raise InteractionNotFound(scope["path"]) from error
        await send_json(send, self._renderings.of_one(frame))


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
    guards: Guards,
    *,
    is_ready: Callable[[], bool] = lambda: True,
) -> ASGIApp:
    """Make the application; `base_url` is what all links begin with, without a slash at its end.

    Links are never made from the Host header, which is the caller's to choose.
    """
    renderings = Renderings(base_url)
    of_session = OfSession(interactions, renderings, base_url)
    of_interaction = OfInteraction(interactions, renderings)
    document = orjson.dumps(openapi_document(base_url))

    async def openapi(_: Request) -> Response:
        """Describe the API."""
        this_call().method = "openapi"
        return Response(document, media_type="application/json")

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
            Route("/openapi.json", openapi, methods=["GET"]),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
        ],
        middleware=[
            # The outermost first: what is refused is observed too, and errors are rendered for all.
            Middleware(Observe),
            Middleware(Errors),
            Middleware(Admit, guards=guards),
            Middleware(Authenticate, guards=guards),
        ],
    )
    router: Router = app.router
    router.redirect_slashes = False  # the SDKs take a redirect for success
    return app


def _joined(rendered: list[bytes], envelope: dict[str, object]) -> bytes:
    """Put the rows, which are JSON already, into the list of an envelope that has none."""
    before, _, after = orjson.dumps(envelope).partition(b"[]")  # links have no brackets
    return b"".join([before, b"[", b",".join(rendered), b"]", after])


def _caller_for(method: str, right: Right) -> Caller:
    """Name the method of this call, and give the caller. Raises PermissionDenied.

    Asked before anything of the request is looked at.
    """
    call = this_call()
    call.method = method
    call.caller.require(right)
    return call.caller


def _name_quietly(method: str) -> None:
    call = this_call()
    call.method, call.is_quiet = method, True
