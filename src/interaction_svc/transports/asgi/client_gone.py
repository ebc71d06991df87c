"""The end of requests whose clients have disconnected."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Scope

from interaction_svc.transports.pipeline import Interruptible

T = TypeVar("T")

ON_DISCONNECT = "interaction_svc.on_disconnect"
"""The extension of a scope whose server reports a disconnection. ASGI itself reports it only to an
application that reads the body. Its value is a function that sets the function to call."""


class ClientGoneError(Exception):
    """The client has ended the connection before the whole response was sent."""


async def unless_gone(scope: Scope, waiting: Coroutine[Any, Any, T]) -> T:
    """Return the result of `waiting`. Raises ClientGoneError if the client disconnects before.

    A server without the extension reports nothing, and the wait goes on.
    """
    on_disconnect: Callable[[Callable[[], None] | None], None] | None
    on_disconnect = (scope.get("extensions") or {}).get(ON_DISCONNECT)
    if on_disconnect is None:
        return await waiting
    block = Interruptible()
    try:
        on_disconnect(lambda: block.interrupt(ClientGoneError()))
        with block:
            return await waiting
    finally:
        on_disconnect(None)
        waiting.close()  # the block is not entered if the client has disconnected already
