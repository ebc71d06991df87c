"""Dispatch of HTTP requests between the RPC methods and the REST API, by path."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.transports.operations import RPCS

RPC_PREFIXES = tuple({rpc.rpartition("/")[0] + "/" for rpc in RPCS})
"""The paths of RPC methods begin with one of these."""


class Dispatch:
    """An ASGI application that passes each request to one of two others."""

    def __init__(self, rpc: ASGIApp, rest: ASGIApp) -> None:
        self._rpc = rpc
        self._rest = rest

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request. The REST application serves the CORS preflights of all paths."""
        if scope["path"].startswith(RPC_PREFIXES) and scope["method"] != "OPTIONS":
            return self._rpc(scope, receive, send)
        return self._rest(scope, receive, send)
