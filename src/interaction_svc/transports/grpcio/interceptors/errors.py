"""Errors: ends a failed call with a status that has details."""

from typing import Any

import grpc

from interaction_svc.telemetry.request_context import REQUEST_ID_HEADER, current_request
from interaction_svc.transports.grpcio.interceptors.chain import Behavior, Context, Interceptor
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import ErrorBoundary
from interaction_svc.transports.rpc.error_details import status_of
from interaction_svc.transports.status import codes_of

_STATUS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Errors(Interceptor):
    """Ends a failed call with a status whose details have the reason."""

    def around(self, _: Operation, behavior: Behavior) -> Behavior:
        """Render errors."""

        async def rendered(request: Any, context: Context) -> Any:
            call = current_request()
            # grpc raises BaseError if the client is gone.
            with ErrorBoundary(call, passes=grpc.aio.BaseError):
                return await behavior(request, context)
            error = call.error
            assert error is not None  # noqa: S101 the boundary has set it
            await context.abort(
                _CODES[codes_of(type(error)).grpc],
                error.message,
                (
                    (REQUEST_ID_HEADER, call.request_id),
                    (_STATUS_KEY, status_of(error).SerializeToString()),
                ),
            )

        return rendered
