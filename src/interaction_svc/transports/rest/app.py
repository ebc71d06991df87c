"""The HTTP application: the operations on Interactions, health, and the API description."""

from collections.abc import Callable, Collection

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.app.interactions import Interactions
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports import operations
from interaction_svc.transports.asgi.admission import Admission
from interaction_svc.transports.asgi.authentication import Authentication
from interaction_svc.transports.asgi.telemetry import Telemetry
from interaction_svc.transports.operations import HEALTHZ, OPENAPI, READYZ
from interaction_svc.transports.pipeline import Pipeline
from interaction_svc.transports.rest.cors import Cors
from interaction_svc.transports.rest.errors import Errors
from interaction_svc.transports.rest.json_cache import JsonCache
from interaction_svc.transports.rest.openapi import openapi_document
from interaction_svc.transports.rest.resources import InteractionList, InteractionResource, enter
from interaction_svc.transports.rest.responses import JsonAnswers, json_response


class Description:
    """The OpenAPI document of the API."""

    def __init__(self, base_url: str, answers: JsonAnswers) -> None:
        self._document = orjson.dumps(openapi_document(base_url))
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET it."""
        enter(OPENAPI, current_request())
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
    pipeline: Pipeline,
    *,
    cors_origins: Collection[str] = (),
    is_ready: Callable[[], bool] = lambda: True,
) -> ASGIApp:
    """Make the application; `base_url` is what all links begin with, without a slash at its end.

    Links are never made from the Host header, which is the caller's to choose. Browsers' pages of
    `cors_origins` may read the answers.
    """
    renderings = JsonCache(base_url)
    answers = JsonAnswers(pipeline.response_backlog)
    interaction_list = InteractionList(interactions, pipeline, renderings, answers, base_url)
    interaction = InteractionResource(interactions, pipeline, renderings, answers)

    async def healthz(_: Request) -> Response:
        """Say that the process is alive."""
        enter(HEALTHZ, current_request())
        return json_response({"status": "ok"})

    async def readyz(_: Request) -> Response:
        """Say whether it can do its work."""
        enter(READYZ, current_request())
        if is_ready():
            return json_response({"status": "ok"})
        return json_response({"status": "unavailable"}, 503)

    app = _Application(
        routes=[
            # The router tries the routes in this order: the most frequent come first.
            Route(operations.ITEM_PATH, interaction, methods=["GET", "DELETE"]),
            Route(operations.LIST_PATH, interaction_list, methods=["GET"]),
            *(
                Route(operation.route.path, endpoint, methods=[operation.route.method])
                for operation, endpoint in (
                    (OPENAPI, Description(base_url, answers)),
                    (HEALTHZ, healthz),
                    (READYZ, readyz),
                )
                if operation.route is not None
            ),
        ],
        middleware=[
            # The outermost first: see transports.pipeline.
            Middleware(Telemetry),
            *([Middleware(Cors, origins=cors_origins)] if cors_origins else []),
            Middleware(Errors),
            Middleware(Admission, pipeline=pipeline),
            Middleware(Authentication, pipeline=pipeline),
        ],
    )
    router: Router = app.router
    router.redirect_slashes = False  # the SDKs take a redirect for success
    return app
