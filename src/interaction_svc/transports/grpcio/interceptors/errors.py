"""Errors: every error of a call leaves with a code, a text and google.rpc details, or masked."""

from typing import Any

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from interaction_svc.domain.errors import (
    DOMAIN,
    InteractionNotFound,
    Internal,
    InvalidField,
    ServiceError,
)
from interaction_svc.telemetry.request_context import REQUEST_ID_HEADER, current_request
from interaction_svc.transports.grpcio.interceptors.chain import (
    Behavior,
    Context,
    Interceptor,
    Method,
)
from interaction_svc.transports.status import codes_of
from interaction_svc.v1 import interaction_pb2

log = structlog.get_logger()

_STATUS_KEY = "grpc-status-details-bin"
_INTERACTION = interaction_pb2.Interaction.DESCRIPTOR.full_name

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Errors(Interceptor):
    """Turns what a call raises into its status.

    grpc.aio sends the text of an uncaught exception to the client; here it becomes a reference,
    and goes into the log. What ends a call whose client is gone is no error and passes through.
    """

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Render errors."""

        async def rendered(request: Any, context: Context) -> Any:
            try:
                return await behavior(request, context)
            except ServiceError as raised:
                # Its traceback would keep what the call has made, such as an answer, in memory.
                error = raised.with_traceback(None)
            except grpc.aio.BaseError:  # grpc's own: the call is over, since its client is gone
                raise
            except Exception as cause:
                error = Internal()
                log.exception("internal error", reference=error.reference, exc_info=cause)
            call = current_request()
            call.error = error
            await context.abort(
                _CODES[codes_of(type(error)).grpc],
                error.message,
                (
                    (REQUEST_ID_HEADER, call.request_id),
                    (_STATUS_KEY, status_of(error).SerializeToString()),
                ),
            )

        return rendered


def status_of(error: ServiceError) -> status_pb2.Status:
    """Give an error as a google.rpc.Status with its details."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason_name(),
            domain=DOMAIN,
            metadata=error.metadata,
        )
    ]
    if isinstance(error, InvalidField):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.problem
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, InteractionNotFound):
        details.append(
            error_details_pb2.ResourceInfo(resource_type=_INTERACTION, resource_name=error.sid)
        )
    if error.retry_after_seconds is not None:
        delay = Duration(seconds=error.retry_after_seconds)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    details += error.details
    status = status_pb2.Status(code=codes_of(type(error)).grpc, message=error.message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status
