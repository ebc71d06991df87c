"""Observe: names the call, and when it ends logs and counts it."""

import asyncio
import urllib.parse
from functools import lru_cache
from typing import Any

import grpc

from interaction_svc import consistency
from interaction_svc.calls import REQUEST_ID_HEADER, Call, request_id_of
from interaction_svc.grpc_api.interceptors.base import (
    HEALTH_PREFIX,
    Behavior,
    Context,
    Interceptor,
)
from interaction_svc.observation import observed

TRANSPORT = "grpc"
_AUTHORIZATION = "authorization"


class Observe(Interceptor):
    """Makes the Call, gives its request id back in the trailers, and observes how it ends."""

    def around(self, method: str, behavior: Behavior) -> Behavior:
        """Observe calls; those of health at debug."""
        name = method.removeprefix("/")
        is_quiet = method.startswith(HEALTH_PREFIX)

        async def observed_call(request: Any, context: Context) -> Any:
            given, authorization, sent = _headers_of(context)
            request_id = request_id_of(given)
            call = Call(
                TRANSPORT, name, peer_of(context), request_id, "OK", authorization,
                consistency=sent, is_quiet=is_quiet,
            )  # fmt: skip
            context.set_trailing_metadata(((REQUEST_ID_HEADER, request_id),))
            with observed(call):
                try:
                    return await behavior(request, context)
                except grpc.aio.AbortError:
                    call.code = call.error.grpc_code.name if call.error else "UNKNOWN"
                    raise
                except asyncio.CancelledError:
                    call.code = "CANCELLED"  # or its deadline has passed: grpc doesn't say
                    raise

        return observed_call


def _headers_of(context: Context) -> tuple[str | None, str | None, str | None]:
    """Give the request id, authorization and consistency token that came; the first of each.

    All at once, since grpc makes all of a call's metadata anew whenever it is asked for.
    """
    request_id: str | bytes | None = None
    authorization: str | bytes | None = None
    token: str | bytes | None = None
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_HEADER and request_id is None:
            request_id = value
        elif key == _AUTHORIZATION and authorization is None:
            authorization = value
        elif key == consistency.KEY and token is None:
            token = value
    return (
        request_id if isinstance(request_id, str) else None,
        authorization if isinstance(authorization, str) else None,
        token if isinstance(token, str) else None,
    )


def peer_of(context: Context) -> str:
    """Give the caller's `host:port`; an IPv6 host stands in brackets."""
    return _address_in(context.peer())


@lru_cache(maxsize=1024)  # a connection has one for all of its calls
def _address_in(peer: str) -> str:
    return urllib.parse.unquote(peer).partition(":")[2]
