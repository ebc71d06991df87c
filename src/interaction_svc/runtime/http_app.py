"""The application of the HTTP listener: the REST API, and the RPC methods beside it."""

from collections.abc import Callable, Collection

from starlette.types import ASGIApp

from interaction_svc.app.interactions import Interactions
from interaction_svc.transports.asgi.cors import Cors
from interaction_svc.transports.asgi.dispatch import Dispatch
from interaction_svc.transports.connect.app import RpcApp
from interaction_svc.transports.pipeline import Pipeline
from interaction_svc.transports.rest.app import create_app
from interaction_svc.transports.rest.responses import error_response


def http_app(
    interactions: Interactions,
    rpc: RpcApp,
    base_url: str,
    pipeline: Pipeline,
    *,
    cors_origins: Collection[str] = (),
    is_ready: Callable[[], bool] = lambda: True,
) -> ASGIApp:
    """Return the application. All links begin with `base_url`, which has no slash at its end.

    Browsers let pages of `cors_origins` read the responses.
    """
    rest = create_app(
        interactions, base_url, pipeline, cors_origins=cors_origins, is_ready=is_ready
    )
    return Dispatch(Cors(rpc, cors_origins, error_response) if cors_origins else rpc, rest)
