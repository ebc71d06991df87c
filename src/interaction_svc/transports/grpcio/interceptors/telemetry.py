"""Telemetry: builds the request context of a call, and logs and counts how it ended."""

import asyncio
import urllib.parse
from typing import Any

import grpc

from interaction_svc.app.consistency import CONSISTENCY_HEADER
from interaction_svc.telemetry.request_context import (
    REQUEST_ID_HEADER,
    RequestContext,
    request_id_of,
)
from interaction_svc.telemetry.request_scope import request_scope
from interaction_svc.transports.grpcio.interceptors.chain import Behavior, Context, Interceptor
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.status import codes_of

TRANSPORT = "grpc"
_AUTHORIZATION = "authorization"


class Telemetry(Interceptor):
    """Builds the request context, and sends the request id and other trailers."""

    def around(self, operation: Operation, behavior: Behavior) -> Behavior:
        """Log and count calls."""
        name, is_quiet = operation.rpc_name, operation.is_quiet

        async def observed(request: Any, context: Context) -> Any:
            given, authorization, bad_authorization, sent = _headers_of(context)
            request_id = request_id_of(given)
            call = RequestContext(
                TRANSPORT, name, peer_of(context), request_id, "OK", authorization,
                bad_authorization, consistency=sent, is_quiet=is_quiet,
            )  # fmt: skip
            context.set_trailing_metadata(((REQUEST_ID_HEADER, request_id),))
            with request_scope(call):
                try:
                    response = await behavior(request, context)
                    if call.written is not None:
                        context.set_trailing_metadata(
                            ((REQUEST_ID_HEADER, request_id), (CONSISTENCY_HEADER, call.written))
                        )
                    return response
                except asyncio.CancelledError:
                    call.code = "CANCELLED"  # at the client's deadline, too: grpc gives no reason
                    raise
                except grpc.aio.BaseError:  # aborted by Errors, or the client is gone
                    call.code = codes_of(type(call.error)).grpc_name if call.error else "CANCELLED"
                    raise

        return observed


def _headers_of(context: Context) -> tuple[str | None, str | None, str, str | None]:
    """Return the request id, the authorization, its problem, and the consistency token.

    If a request id or a token is repeated, the first is used. All are read at once, because grpc
    builds the metadata again at each call of `invocation_metadata`.
    """
    sent = tuple(context.invocation_metadata() or ())
    first = dict(reversed(sent))
    authorization = _text(first.get(_AUTHORIZATION))
    problem = ""
    if authorization is not None:
        if len(first) != len(sent) and sum(key == _AUTHORIZATION for key, _ in sent) > 1:
            problem = "The metadata has more than one `authorization`; send exactly one"
        elif not authorization.isascii():
            problem = "The `authorization` has characters that are not ASCII; a key has none"
    return (
        _text(first.get(REQUEST_ID_HEADER)),
        authorization,
        problem,
        _text(first.get(CONSISTENCY_HEADER)),
    )


def _text(value: str | bytes | None) -> str | None:
    return value if isinstance(value, str) else None


def peer_of(context: Context) -> str:
    """Return the caller's `host:port`, with an IPv6 host in brackets."""
    return urllib.parse.unquote(context.peer()).partition(":")[2]
