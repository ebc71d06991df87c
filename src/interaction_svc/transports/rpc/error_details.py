"""An error as a google.rpc.Status, whose details a program can read."""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from interaction_svc.domain.errors import (
    DOMAIN,
    InteractionNotFound,
    InvalidField,
    ServiceError,
)
from interaction_svc.transports.status import codes_of
from interaction_svc.v1 import interaction_pb2

_INTERACTION = interaction_pb2.Interaction.DESCRIPTOR.full_name


def status_of(error: ServiceError) -> status_pb2.Status:
    """Return an error as a google.rpc.Status with its details."""
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
