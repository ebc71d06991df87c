"""All errors that a caller can get.

ServiceError
├── InvalidField            a field is missing or invalid
│   ├── InvalidConsistencyToken  the consistency token is damaged
│   ├── InvalidPageToken    the page token is damaged
│   └── PageTokenMismatch   the page token belongs to a list with other arguments
├── MalformedRequest        the request is not a message of this API, or not HTTP
│   ├── HeadersTooLarge     the headers of an HTTP request exceed their limit
│   ├── HeadersTooSlow      the headers of an HTTP request did not arrive in time
│   ├── RequestTooLarge     the message of a request exceeds its limit
│   ├── UnsupportedCompression  the request is compressed with an unknown algorithm
│   └── UnsupportedMediaType  a request over HTTP has another content type
├── InteractionNotFound     the Interaction doesn't exist, or the caller may not see it
├── UnknownPath             nothing is served under the path (HTTP only)
├── OwnerMismatch           the Interaction is stored under another Service
├── AmbiguousAccount        several accounts have it, and the call names no account
├── DataLoss                the stored Interaction is damaged
├── Unauthenticated         the credentials are missing or wrong
├── PermissionDenied        the credentials lack the permission
├── UnknownMethod           there is no such method (gRPC only)
├── MethodNotAllowed        the resource has no such operation (HTTP only)
├── Overloaded              too many requests or writes are in progress or waiting
├── RateLimited             too many calls of an account, or too many wrong credentials
├── StoreFull               the store's disk is full
├── DeadlineExceeded        the call took longer than the deadline
├── StreamIdle              no request came on a stream for too long (gRPC only)
├── Unavailable             the store is unusable, or the service is shutting down
└── Internal                a fault of the service, whose cause is only logged

Each class has a reason, a value of ErrorReason in protos/. transports/status.py maps the class to
the codes of each protocol.

OperatorError is the base class of errors with texts for operators.
"""

import secrets
from collections.abc import Sequence
from typing import ClassVar

from google.protobuf.message import Message

from interaction_svc.v1 import error_reason_pb2 as reasons

DOMAIN = "interaction-svc"


class OperatorError(Exception):
    """An error with a text for operators, which logs and the command line show."""


class ServiceError(Exception):
    """An error that the caller gets. Its text is written for the caller.

    `metadata` goes into the ErrorInfo. Texts contain no internals and no data of an Interaction.
    """

    details: tuple[Message, ...] = ()
    """Further messages for the details of a gRPC status."""

    reason: ClassVar[reasons.ErrorReason.ValueType]
    retry_after_seconds: int | None = None
    """The time after which a retry may succeed; None if it can't, or if the time is unknown."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata

    @classmethod
    def reason_name(cls) -> str:
        """Return the name of the error's reason, as in the ErrorInfo."""
        return reasons.ErrorReason.Name(cls.reason)


class InvalidField(ServiceError):
    """A field is missing, or its value is invalid."""

    reason = reasons.ERROR_REASON_INVALID_FIELD

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", field=field)
        self.field = field
        self.problem = problem


class InvalidConsistencyToken(InvalidField):
    """The consistency token is malformed, or was not issued by this service."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "is damaged; send what a write answered unchanged, or leave it out")


class InvalidPageToken(InvalidField):
    """The page token is truncated or changed, or was not issued by this service."""

    reason = reasons.ERROR_REASON_INVALID_PAGE_TOKEN

    def __init__(self) -> None:
        super().__init__(
            "page_token", "is damaged; pass a token of an earlier page unchanged, or leave it out"
        )


class PageTokenMismatch(InvalidField):
    """The page token was issued for a list with another value of the named field."""

    reason = reasons.ERROR_REASON_PAGE_TOKEN_MISMATCH

    def __init__(self, field: str) -> None:
        super().__init__(
            field, "changed since the page token was made; keep it, or start without a token"
        )


class MalformedRequest(ServiceError):
    """The bytes of a request are not a message of the method's type, or not HTTP."""

    reason = reasons.ERROR_REASON_MALFORMED_REQUEST


class UnsupportedCompression(MalformedRequest):
    """The request is compressed with an algorithm that the service doesn't have."""

    def __init__(self) -> None:
        super().__init__("The compression of the request is unknown; use gzip, deflate or identity")


class HeadersTooLarge(MalformedRequest):
    """The headers of an HTTP request are larger than max_header_bytes."""


class HeadersTooSlow(MalformedRequest):
    """The headers of an HTTP request were not complete within their time limit."""


class RequestTooLarge(MalformedRequest):
    """The message of a request is larger than max_message_bytes."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The request is larger than {max_bytes:,} bytes")


class UnsupportedMediaType(MalformedRequest):
    """The method does not support the content type of the HTTP request."""


class InteractionNotFound(ServiceError):
    """There is no such Interaction in the Session, or the caller may not see it."""

    reason = reasons.ERROR_REASON_INTERACTION_NOT_FOUND

    def __init__(self, sid: str) -> None:
        super().__init__(f"Interaction {sid} was not found in this Session", sid=sid)
        self.sid = sid


class UnknownPath(ServiceError):
    """The service has no resource at the path of the HTTP request."""

    reason = reasons.ERROR_REASON_INTERACTION_NOT_FOUND


class OwnerMismatch(ServiceError):
    """The Interaction is stored under another Service. Its Service never changes."""

    reason = reasons.ERROR_REASON_OWNER_MISMATCH

    def __init__(self, sid: str) -> None:
        super().__init__(
            f"Interaction {sid} is stored under another Service, which never changes",
            sid=sid,
        )


class AmbiguousAccount(ServiceError):
    """Several accounts have the Interaction, and the call names no account."""

    reason = reasons.ERROR_REASON_AMBIGUOUS_ACCOUNT

    def __init__(self) -> None:
        super().__init__(
            "Several accounts have this Interaction; name one of them in account_sid (over HTTP:"
            " AccountSid)"
        )


class DataLoss(ServiceError):
    """The stored Interaction is damaged, and is not returned."""

    reason = reasons.ERROR_REASON_DATA_LOSS

    def __init__(self) -> None:
        super().__init__(
            "The stored Interaction is damaged; the operator has to restore it from a backup"
        )


class Unauthenticated(ServiceError):
    """The credentials are missing or wrong. The text doesn't say which.

    For malformed credentials the text describes the required form.
    """

    reason = reasons.ERROR_REASON_UNAUTHENTICATED

    def __init__(self, message: str = "Authenticate") -> None:
        super().__init__(message)


class PermissionDenied(ServiceError):
    """The credentials lack the permission for the call."""

    reason = reasons.ERROR_REASON_PERMISSION_DENIED


class UnknownMethod(ServiceError):
    """There is no such gRPC method."""

    reason = reasons.ERROR_REASON_METHOD_NOT_ALLOWED

    def __init__(self) -> None:
        super().__init__("There is no such method; server reflection lists the methods")


class MethodNotAllowed(ServiceError):
    """The resource has no such operation."""

    reason = reasons.ERROR_REASON_METHOD_NOT_ALLOWED

    def __init__(self, message: str, allowed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed
        """The HTTP methods of the resource."""


class Overloaded(ServiceError):
    """Too many requests are in progress, or too many writes are waiting; nothing was done.

    `scope` says what the limit applies to: the service, an account, a key, a connection, or all
    callers without a key.
    """

    reason = reasons.ERROR_REASON_OVERLOADED
    retry_after_seconds = 1

    def __init__(
        self,
        message: str = "Too many requests: the service is at its limit",
        *,
        scope: str = "service",
        **metadata: str,
    ) -> None:
        super().__init__(message, scope=scope, **metadata)


class RateLimited(ServiceError):
    """An account makes too many calls a second, or a peer sent too many wrong credentials.

    `scope` says what the limit applies to: an account, a key, an address, or all callers without a
    key.
    """

    reason = reasons.ERROR_REASON_RATE_LIMITED

    def __init__(
        self, message: str, *, scope: str, per_second: float, retry_after_seconds: int
    ) -> None:
        super().__init__(message, scope=scope, per_second=f"{per_second:g}")
        self.retry_after_seconds = retry_after_seconds


class StoreFull(ServiceError):
    """The disk of the store is full. Nothing was written, and reads still work."""

    reason = reasons.ERROR_REASON_STORE_FULL
    retry_after_seconds = 10

    def __init__(self) -> None:
        super().__init__("The store has no room left to write; nothing was done")


class DeadlineExceeded(ServiceError):
    """The call took longer than the deadline of the service or of the client."""

    reason = reasons.ERROR_REASON_DEADLINE_EXCEEDED

    def __init__(self, message: str = "It took longer than the service's deadline") -> None:
        super().__init__(message)


class StreamIdle(ServiceError):
    """No request came on a stream for longer than the maximum idle time."""

    reason = reasons.ERROR_REASON_STREAM_IDLE

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The stream has ended, because no request came for {seconds:g} seconds",
            idle_seconds=f"{seconds:g}",
        )


class Unavailable(ServiceError):
    """The store is unusable at the moment, or the service is shutting down."""

    reason = reasons.ERROR_REASON_UNAVAILABLE
    retry_after_seconds = 1


class Internal(ServiceError):
    """A fault of the service. The caller gets a reference, under which the log has the cause."""

    reason = reasons.ERROR_REASON_INTERNAL

    def __init__(self) -> None:
        reference = secrets.token_hex(6)
        super().__init__(f"Internal error, reference {reference}", reference=reference)
        self.reference = reference
