"""Every error that a caller can get, in one registry.

ServiceError
├── InvalidField            a field is missing or bad
│   ├── InvalidConsistencyToken  what a write answered, damaged
│   ├── InvalidPageToken    the token is damaged
│   └── PageTokenMismatch   the token is of a list with other arguments
├── MalformedRequest        not a message of this API, or not HTTP
│   ├── HeadersTooLarge     the headers of an HTTP request exceed their limit
│   ├── HeadersTooSlow      the headers of an HTTP request did not arrive in time
│   ├── RequestTooLarge     the message of a request exceeds its limit
│   └── UnsupportedMediaType  a request over HTTP has another content type
├── InteractionNotFound     not there, or not the caller's
├── UnknownPath             nothing is served there (HTTP only)
├── OwnerMismatch           stored under another Service
├── AmbiguousAccount        several accounts have it, and the call names none
├── DataLoss                what is stored of it is damaged
├── Unauthenticated         credentials missing or wrong
├── PermissionDenied        credentials without the right
├── UnknownMethod           there is no such method (gRPC only)
│   └── StreamNotServed     the method is a stream, which the protocol does not serve
├── MethodNotAllowed        the resource has no such operation (HTTP only)
├── Overloaded              more is under way or waiting than the service takes on
├── RateLimited             the account's calls, or the peer's attempts, are too many
├── StoreFull               the store's disk is full
├── DeadlineExceeded        it took longer than the deadline
├── StreamIdle              no request came on a stream for too long (gRPC only)
├── Unavailable             the store can't be used, or the service is stopping
└── Internal                a fault of the service, masked

Each class names its reason (the enum in protos/). Its codes in each protocol are in
transports/status.py.

OperatorError is the base of errors whose texts are written for operators.
"""

import secrets
from collections.abc import Sequence
from typing import ClassVar

from google.protobuf.message import Message

from interaction_svc.v1 import error_reason_pb2 as reasons

DOMAIN = "interaction-svc"


class OperatorError(Exception):
    """An error whose text is written for operators: logs and the command line show it."""


class ServiceError(Exception):
    """An error that the caller is told about; its text is written for them.

    `metadata` goes into the ErrorInfo. Texts hold no internals and no data of an Interaction.
    """

    details: tuple[Message, ...] = ()
    """Further messages for the details of a gRPC status."""

    reason: ClassVar[reasons.ErrorReason.ValueType]
    retry_after_seconds: int | None = None
    """After which time the same call may succeed; None: it won't, or it isn't known."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata

    @classmethod
    def reason_name(cls) -> str:
        """Return the name of its reason, as it stands in the ErrorInfo."""
        return reasons.ErrorReason.Name(cls.reason)


class InvalidField(ServiceError):
    """A field is missing, or has a value that can't be used."""

    reason = reasons.ERROR_REASON_INVALID_FIELD

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", field=field)
        self.field = field
        self.problem = problem


class InvalidConsistencyToken(InvalidField):
    """The consistency token is malformed, or not of this service."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "is damaged; send what a write answered unchanged, or leave it out")


class InvalidPageToken(InvalidField):
    """The page token is cut, changed, or not one of this service's."""

    reason = reasons.ERROR_REASON_INVALID_PAGE_TOKEN

    def __init__(self) -> None:
        super().__init__(
            "page_token", "is damaged; pass a token of an earlier page unchanged, or leave it out"
        )


class PageTokenMismatch(InvalidField):
    """The page token belongs to a list with another value in the named field."""

    reason = reasons.ERROR_REASON_PAGE_TOKEN_MISMATCH

    def __init__(self, field: str) -> None:
        super().__init__(
            field, "changed since the page token was made; keep it, or start without a token"
        )


class MalformedRequest(ServiceError):
    """The bytes of a request are not the message that the call takes."""

    reason = reasons.ERROR_REASON_MALFORMED_REQUEST


class HeadersTooLarge(MalformedRequest):
    """The headers of an HTTP request are larger than max_header_bytes."""


class HeadersTooSlow(MalformedRequest):
    """The headers of an HTTP request were not complete within their time limit."""


class RequestTooLarge(MalformedRequest):
    """The message of a request is larger than max_message_bytes."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The request is larger than {max_bytes:,} bytes")


class UnsupportedMediaType(MalformedRequest):
    """The content type of a request over HTTP is none that the method has."""


class InteractionNotFound(ServiceError):
    """There is no such Interaction in the Session, or it isn't the caller's to see."""

    reason = reasons.ERROR_REASON_INTERACTION_NOT_FOUND

    def __init__(self, sid: str) -> None:
        super().__init__(f"Interaction {sid} was not found in this Session", sid=sid)
        self.sid = sid


class UnknownPath(ServiceError):
    """Nothing is served under the path of an HTTP request."""

    reason = reasons.ERROR_REASON_INTERACTION_NOT_FOUND


class OwnerMismatch(ServiceError):
    """The account's Interaction is stored under another Service, which never changes."""

    reason = reasons.ERROR_REASON_OWNER_MISMATCH

    def __init__(self, sid: str) -> None:
        super().__init__(
            f"Interaction {sid} is stored under another Service, which never changes",
            sid=sid,
        )


class AmbiguousAccount(ServiceError):
    """Several accounts have the Interaction, and the call reaches all of them."""

    reason = reasons.ERROR_REASON_AMBIGUOUS_ACCOUNT

    def __init__(self) -> None:
        super().__init__(
            "Several accounts have this Interaction; name one of them in account_sid (over HTTP:"
            " AccountSid)"
        )


class DataLoss(ServiceError):
    """The stored Interaction is damaged, and is not answered."""

    reason = reasons.ERROR_REASON_DATA_LOSS

    def __init__(self) -> None:
        super().__init__("What is stored is damaged; its operator has to restore it from a backup")


class Unauthenticated(ServiceError):
    """The credentials are missing or wrong; which of the two isn't said.

    A message tells only what is wrong with their form.
    """

    reason = reasons.ERROR_REASON_UNAUTHENTICATED

    def __init__(self, message: str = "Authenticate") -> None:
        super().__init__(message)


class PermissionDenied(ServiceError):
    """The credentials don't give the right to do this."""

    reason = reasons.ERROR_REASON_PERMISSION_DENIED


class UnknownMethod(ServiceError):
    """There is no such gRPC method."""

    reason = reasons.ERROR_REASON_METHOD_NOT_ALLOWED

    def __init__(self) -> None:
        super().__init__("There is no such method; reflection lists those that there are")


class StreamNotServed(UnknownMethod):
    """The method is a stream, which the protocol of the request does not serve."""

    def __init__(self) -> None:
        ServiceError.__init__(self, "The method is a stream; call it over gRPC")


class MethodNotAllowed(ServiceError):
    """The resource has no such operation."""

    reason = reasons.ERROR_REASON_METHOD_NOT_ALLOWED

    def __init__(self, message: str, allowed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed
        """The HTTP methods of the resource."""


class Overloaded(ServiceError):
    """More is under way, or waiting to be written, than the service takes on; nothing was done.

    Its `scope` is what the limit holds for: the service, or an account, key or connection of it.
    """

    reason = reasons.ERROR_REASON_OVERLOADED
    retry_after_seconds = 1

    def __init__(
        self,
        message: str = "Too many requests: the service has as much to do as it takes on",
        *,
        scope: str = "service",
        **metadata: str,
    ) -> None:
        super().__init__(message, scope=scope, **metadata)


class RateLimited(ServiceError):
    """The account's calls a second, or a peer's wrong credentials, are too many.

    Its `scope` is whose they are: an account's, a key's, an address's, or of all without a key.
    """

    reason = reasons.ERROR_REASON_RATE_LIMITED

    def __init__(
        self, message: str, *, scope: str, per_second: float, retry_after_seconds: int
    ) -> None:
        super().__init__(message, scope=scope, per_second=f"{per_second:g}")
        self.retry_after_seconds = retry_after_seconds


class StoreFull(ServiceError):
    """The disk of the store is full; nothing was done, and reads go on."""

    reason = reasons.ERROR_REASON_STORE_FULL
    retry_after_seconds = 10

    def __init__(self) -> None:
        super().__init__("The store has no room left to write; nothing was done")


class DeadlineExceeded(ServiceError):
    """It took longer than the service's own deadline, whatever deadline the client set."""

    reason = reasons.ERROR_REASON_DEADLINE_EXCEEDED

    def __init__(self, message: str = "It took longer than the service's deadline") -> None:
        super().__init__(message)


class StreamIdle(ServiceError):
    """No request came on a stream for longer than a stream may be idle."""

    reason = reasons.ERROR_REASON_STREAM_IDLE

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"No request came on the stream for {seconds:g} seconds, after which it ends",
            idle_seconds=f"{seconds:g}",
        )


class Unavailable(ServiceError):
    """The store can't be used at the moment, or the service is shutting down."""

    reason = reasons.ERROR_REASON_UNAVAILABLE
    retry_after_seconds = 1


class Internal(ServiceError):
    """A fault of the service: the caller gets a reference, the log has the cause under it."""

    reason = reasons.ERROR_REASON_INTERNAL

    def __init__(self) -> None:
        reference = secrets.token_hex(6)
        super().__init__(f"Internal error, reference {reference}", reference=reference)
        self.reference = reference
