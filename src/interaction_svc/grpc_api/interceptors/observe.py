"""Observe: names the call, and when it ends logs and counts it."""

import asyncio
import urllib.parse
from typing import Any

import grpc

from interaction_svc.calls import REQUEST_ID_HEADER, Call, request_id_of
from interaction_svc.grpc_api.interceptors.base import (
    HEALTH_PREFIX,
    Behavior,
    Context,
    Interceptor,
)
from interaction_svc.observation import observed

TRANSPORT = "grpc"


class Observe(Interceptor):
    """Makes the Call, gives its request id back in the trailers, and observes how it ends."""

    def around(self, method: str, behavior: Behavior) -> Behavior:
        """Observe calls; those of health at debug."""
        name = method.removeprefix("/")
        is_quiet = method.startswith(HEALTH_PREFIX)

        async def observed_call(request: Any, context: Context) -> Any:
            request_id = request_id_of(metadata_of(context, REQUEST_ID_HEADER))
            call = Call(TRANSPORT, name, peer_of(context), request_id, "OK", is_quiet=is_quiet)
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


def metadata_of(context: Context, name: str) -> str | None:
    """Give a value of the call's metadata; the first, if there are several."""
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else None
    return None


def peer_of(context: Context) -> str:
    """Give the caller's `host:port`; an IPv6 host stands in brackets."""
    return urllib.parse.unquote(context.peer()).partition(":")[2]
