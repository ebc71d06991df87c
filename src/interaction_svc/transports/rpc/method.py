"""A method of an RPC service, independent of the engine that serves it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.message import Message


class Method(NamedTuple):
    """A method. Requests and responses are messages in protobuf's encoding."""

    call: Callable[[Any], Any]
    """Takes a request, or an async iterator of requests. Returns an awaitable of the response, or
    an async generator of responses. The operation's kind states which.
    """
    request: type[Message]
    response: type[Message]
