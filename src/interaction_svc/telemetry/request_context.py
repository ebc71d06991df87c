"""The context of the current request, for logs, limits and audit lines."""

import random
import re
import secrets
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

from interaction_svc.domain.errors import ServiceError
from interaction_svc.domain.principals import ANONYMOUS, Principal

REQUEST_ID_HEADER = "x-request-id"
MAX_REQUEST_ID = 128
"""The maximum length of a caller's request id, in characters."""
TWILIO_REQUEST_ID = re.compile(r"RQ[0-9a-f]{32}")
"""The form of Twilio's request ids."""

_GOOD_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{MAX_REQUEST_ID}}}")


@dataclass(slots=True)
class RequestContext:
    """A gRPC call or HTTP request: its caller, its operation and its outcome."""

    transport: str
    method: str
    peer: str
    request_id: str
    code: str
    """The gRPC code or HTTP status of the result."""
    authorization: str | None = field(default=None, repr=False)
    """The credentials as sent. Only authentication may read them."""
    bad_authorization: str = ""
    """The error text for the caller if the credentials are malformed."""
    consistency: str | None = None
    """The consistency token in a read (app/consistency.py)."""
    written: str | None = None
    """The consistency token of a write, which the transport adds to the response."""
    principal: Principal = ANONYMOUS
    error: ServiceError | None = None
    """The error that the caller gets."""
    is_quiet: bool = False
    """Whether its log line has level debug."""
    about: dict[str, object] = field(default_factory=dict)
    """Further fields of its log line."""


_current: ContextVar[RequestContext | None] = ContextVar("call", default=None)


def begin(call: RequestContext) -> Token[RequestContext | None]:
    """Set the current request, and return the token for `end`."""
    return _current.set(call)


def end(token: Token[RequestContext | None]) -> None:
    """Restore the state before `begin`."""
    _current.reset(token)


def current_request_or_none() -> RequestContext | None:
    """Return the current request; None outside a request, for example in a command."""
    return _current.get()


def current_request() -> RequestContext:
    """Return the current request. Call it only inside a request."""
    call = _current.get()
    assert call is not None  # noqa: S101 each transport calls `begin` first
    return call


# Not os.urandom, which releases the interpreter lock and then waits for it. Request ids need to be
# unique, but not secret.
_random = random.Random(secrets.randbits(256))  # noqa: S311


def new_request_id() -> str:
    """Return a new request id in Twilio's form."""
    return f"RQ{_random.getrandbits(128):032x}"


def request_id_of(given: str | None) -> str:
    """Return the request id that a caller sent, or a new one if it is missing or malformed.

    An id goes into logs and headers, so it must be 1 to 128 letters, digits or `._:/+=@-`.
    """
    if given is not None and _GOOD_REQUEST_ID.fullmatch(given):
        return given
    return new_request_id()
