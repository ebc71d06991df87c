"""The HTTP application: the operations on Interactions, health, and the API description."""

from collections.abc import Callable, Collection

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.app.interactions import Interactions
from interaction_svc.codec.twilio_json import to_json
from interaction_svc.transports.asgi.admission import Admission
from interaction_svc.transports.asgi.authentication import Authentication
from interaction_svc.transports.asgi.cors import Cors
from interaction_svc.transports.asgi.json_cache import JsonCache
from interaction_svc.transports.asgi.router import Router, serve_endpoint
from interaction_svc.transports.asgi.telemetry import Telemetry
from interaction_svc.transports.operations import DELETE, GET, HEALTHZ, LIST, OPENAPI, READYZ
from interaction_svc.transports.pipeline import Pipeline
from interaction_svc.transports.rest.errors import Errors
from interaction_svc.transports.rest.openapi import openapi_document
from interaction_svc.transports.rest.resources import InteractionList, InteractionResource
from interaction_svc.transports.rest.responses import (
    JsonResponses,
    error_response,
    json_response,
)


def create_app(
    interactions: Interactions,
    base_url: str,
    pipeline: Pipeline,
    *,
    cors_origins: Collection[str] = (),
    is_ready: Callable[[], bool] = lambda: True,
) -> ASGIApp:
    """Return the application. All links begin with `base_url`, which has no slash at its end.

    Links never use the Host header, because callers choose it. In browsers, pages of `cors_origins`
    may read the responses.
    """
    cache = JsonCache(lambda interaction: orjson.dumps(to_json(interaction, base_url)))
    responses = JsonResponses(pipeline.response_backlog)
    resource = InteractionResource(interactions, cache, responses)
    document = orjson.dumps(openapi_document(base_url))

    async def openapi(scope: Scope, _: Receive, send: Send) -> None:
        await responses.send(scope, send, document)

    async def healthz(scope: Scope, receive: Receive, send: Send) -> None:
        await json_response({"status": "ok"})(scope, receive, send)

    async def readyz(scope: Scope, receive: Receive, send: Send) -> None:
        response = (
            json_response({"status": "ok"})
            if is_ready()
            else json_response({"status": "unavailable"}, 503)
        )
        await response(scope, receive, send)

    router = Router(
        {
            GET: resource.get,
            DELETE: resource.delete,
            LIST: InteractionList(interactions, cache, responses, base_url).get,
            OPENAPI: openapi,
            HEALTHZ: healthz,
            READYZ: readyz,
        }
    )
    app: ASGIApp = Authentication(serve_endpoint, pipeline)
    app = Errors(Admission(app, pipeline))
    if cors_origins:
        app = Cors(app, cors_origins, error_response)
    return Telemetry(app, router)
