"""The call that is being worked on, for whoever needs to know on its way: logs, limits, audit."""

import random
import re
import secrets
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

from interaction_svc.domain.errors import ServiceError
from interaction_svc.domain.principals import ANONYMOUS, Principal

REQUEST_ID_HEADER = "x-request-id"
MAX_REQUEST_ID = 128
"""Characters of a request id that a caller gives."""
TWILIO_REQUEST_ID = re.compile(r"RQ[0-9a-f]{32}")
"""The form of the vendor's request ids."""

_GOOD_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{MAX_REQUEST_ID}}}")


@dataclass(slots=True)
class RequestContext:
    """One call, or HTTP request: who makes it, and how it ended."""

    transport: str
    method: str
    peer: str
    request_id: str
    code: str
    """The gRPC code or HTTP status that it ends with."""
    authorization: str | None = field(default=None, repr=False)
    """What the caller shows of who it is; for no eyes but those of Authenticate."""
    bad_authorization: str = ""
    """Why what came as the authorization can't be one, in words for the caller."""
    consistency: str | None = None
    """The token that a read sends to see a write (consistency.py)."""
    written: str | None = None
    """The consistency token of what the request wrote; the transport answers it."""
    principal: Principal = ANONYMOUS
    error: ServiceError | None = None
    """What it was refused with, or failed with."""
    is_quiet: bool = False
    """Whether it is logged at debug only."""
    about: dict[str, object] = field(default_factory=dict)
    """What else its log line says."""


_current: ContextVar[RequestContext | None] = ContextVar("call", default=None)


def begin(call: RequestContext) -> Token[RequestContext | None]:
    """Make this the current call; `end` takes the token."""
    return _current.set(call)


def end(token: Token[RequestContext | None]) -> None:
    """Let there be no current call any more."""
    _current.reset(token)


def current_request_or_none() -> RequestContext | None:
    """Give the current call; None where there is none, as on the command line."""
    return _current.get()


def current_request() -> RequestContext:
    """Give the current call where there has to be one."""
    call = _current.get()
    assert call is not None  # noqa: S101 every transport begins with it
    return call


# Not the system's randomness, for which a thread lets go of the interpreter, and has to wait for it
# while the store is read: request ids are no secrets, and need only be different.
_random = random.Random(secrets.randbits(256))  # noqa: S311


def new_request_id() -> str:
    """Make a request id in the vendor's form."""
    return f"RQ{_random.getrandbits(128):032x}"


def request_id_of(given: str | None) -> str:
    """Give the request id that a caller sent, or a new one.

    One of another form than 1 to 128 of the characters that ids are made of is not taken over: it
    goes into logs and headers.
    """
    if given is not None and _GOOD_REQUEST_ID.fullmatch(given):
        return given
    return new_request_id()
