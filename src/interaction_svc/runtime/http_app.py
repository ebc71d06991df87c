"""The application of the HTTP listener: the REST API, and the RPC methods beside it."""

from collections.abc import Callable, Collection, Mapping

from starlette.types import ASGIApp

from interaction_svc.app.interactions import Interactions
from interaction_svc.transports.asgi.cors import Cors
from interaction_svc.transports.asgi.dispatch import Dispatch
from interaction_svc.transports.connect.app import RpcApp
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline, StreamTimes
from interaction_svc.transports.rest.app import create_app
from interaction_svc.transports.rest.responses import error_response
from interaction_svc.transports.rpc.method import Method


def http_app(
    interactions: Interactions,
    methods: Mapping[Operation, Method],
    base_url: str,
    pipeline: Pipeline,
    times: StreamTimes,
    *,
    max_message_bytes: int,
    cors_origins: Collection[str] = (),
    open_to_all: Collection[Operation] = (),
    is_ready: Callable[[], bool] = lambda: True,
) -> ASGIApp:
    """Return the application. All links begin with `base_url`, which has no slash at its end.

    A request of an RPC method may have `max_message_bytes`. Browsers let pages of `cors_origins`
    read the responses. The methods in `open_to_all` need no credentials.
    """
    rpc: ASGIApp = RpcApp(
        methods, pipeline, times, max_message_bytes=max_message_bytes, open_to_all=open_to_all
    )
    if cors_origins:
        rpc = Cors(rpc, cors_origins, error_response)
    rest = create_app(
        interactions, base_url, pipeline, cors_origins=cors_origins, is_ready=is_ready
    )
    return Dispatch(rpc, rest)
