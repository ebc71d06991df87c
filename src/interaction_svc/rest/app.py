"""The HTTP application: the vendor's three operations on Interactions."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from interaction_svc.credentials import Caller
from interaction_svc.errors import (
    InteractionNotFound,
    InvalidField,
    MethodNotAllowed,
    UnknownPath,
)
from interaction_svc.interactions import Interactions
from interaction_svc.rest import adapter
from interaction_svc.rest.middleware import (
    Authenticate,
    Errors,
    RefuseWhileDraining,
    TwilioHeaders,
)
from interaction_svc.rest.parameters import parameter_of, read_parameters
from interaction_svc.rest.responses import error_response, json_response
from interaction_svc.sids import Sid
from interaction_svc.store import Key, decode

_LIST_PATH = "/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"
_PATH_SIDS = {"service_sid": Sid.SERVICE, "session_sid": Sid.SESSION, "sid": Sid.INTERACTION}


class InteractionRoutes:
    """The handlers of the two paths."""

    def __init__(self, interactions: Interactions, base_url: str) -> None:
        self._interactions = interactions
        self._base_url = base_url

    async def of_session(self, request: Request) -> Response:
        """GET a page of a Session's Interactions."""
        service_sid, session_sid = _sids(request)
        query = request.query_params.multi_items()
        wanted, page, carried = read_parameters(service_sid, session_sid, query)
        try:
            found = await self._interactions.page(_caller(request), wanted)
        except InvalidField as error:
            raise InvalidField(parameter_of(error.field), error.problem) from error
        return json_response(
            adapter.to_envelope(
                [adapter.to_json(decode(frame), self._base_url) for frame in found.frames],
                adapter.list_url(self._base_url, service_sid, session_sid),
                page=page,
                page_size=wanted.page_size,
                page_token=wanted.page_token,
                next_page_token=found.next_page_token,
                previous_page_token=found.previous_page_token,
                carried=carried,
            )
        )

    async def of_interaction(self, request: Request) -> Response:
        """GET or DELETE one Interaction."""
        key = Key(*_sids(request))
        if request.method == "DELETE":
            await self._interactions.delete(_caller(request), key)
            return Response(status_code=204)
        frame = await self._interactions.get(_caller(request), key)
        return json_response(adapter.to_json(decode(frame), self._base_url))


def create_app(
    interactions: Interactions, base_url: str, *, is_draining: Callable[[], bool] = lambda: False
) -> ASGIApp:
    """Make the application; `base_url` is what all links begin with, without a slash at its end.

    Links are never made from the Host header, which is the caller's to choose.
    """
    routes = InteractionRoutes(interactions, base_url)
    app = Starlette(
        routes=[
            Route(_LIST_PATH, routes.of_session, methods=["GET"]),
            Route(f"{_LIST_PATH}/{{sid}}", routes.of_interaction, methods=["GET", "DELETE"]),
        ],
        exception_handlers={HTTPException: _refused},
        middleware=[
            # The outermost first: refusals have the headers too, and errors are rendered for all.
            Middleware(TwilioHeaders),
            Middleware(Errors),
            Middleware(RefuseWhileDraining, is_draining=is_draining),
            Middleware(Authenticate),
        ],
    )
    router: Router = app.router
    router.redirect_slashes = False  # the SDKs take a redirect for success
    return app


async def _refused(request: Request, refusal: Exception) -> Response:
    """Render what the framework itself refuses: a path, or a method on one."""
    path = request.url.path
    if isinstance(refusal, HTTPException) and refusal.status_code == 405:
        allow = ", ".join(sorted((refusal.headers or {})["Allow"].split(", ")))
        error = MethodNotAllowed(f"Method {request.method} is not allowed on this resource")
        return error_response(error, path, allow)
    return error_response(UnknownPath("Not found"), path)


def _sids(request: Request) -> list[str]:
    """Give the SIDs of the path; a malformed one is a resource that doesn't exist."""
    given: dict[str, str] = request.path_params
    if not all(_PATH_SIDS[name].matches(value) for name, value in given.items()):
        raise InteractionNotFound(request.url.path)
    return list(given.values())


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller
