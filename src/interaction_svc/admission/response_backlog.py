"""Limits on the bytes of responses that clients have not read yet."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from interaction_svc.domain.errors import Overloaded
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.telemetry.request_context import RequestContext

UNCOUNTED_BYTES = 64 * KIB
"""Responses up to this size are not counted: all in progress together have only a few MiB."""
_UNCOUNTED = nullcontext()


class ResponseBacklog:
    """Counts the bytes of unread responses: per connection, per account, and in total.

    Limits on requests in progress don't bound these bytes. A response stays in memory until its
    client reads it, and gRPC can't drop it. gRPC also makes a copy, so the response is in memory
    twice.
    """

    MAX_BYTES = 256 * MIB
    MAX_BYTES_AN_ACCOUNT = 128 * MIB
    MAX_BYTES_A_CONNECTION = 64 * MIB
    OVERHEAD_BYTES = 16 * KIB
    """The memory that a request takes besides its response."""

    def __init__(self) -> None:
        self._all = 0
        self._held: dict[str, int] = {}  # by account or key, and by connection

    def check(self, call: RequestContext, answer_bytes: int = 0) -> None:
        """Raise Overloaded if a further response of this size would exceed a limit."""
        size = answer_bytes + self.OVERHEAD_BYTES
        if self._all + size <= self.MAX_BYTES_A_CONNECTION:  # below the smallest limit: fast path
            return
        held = self._held.get
        for scope, waiting, most in (
            ("service", self._all, self.MAX_BYTES),
            (call.principal.scope, held(call.principal.quota_key, 0), self.MAX_BYTES_AN_ACCOUNT),
            ("connection", held(call.peer, 0), self.MAX_BYTES_A_CONNECTION),
        ):
            if waiting + size > most:
                raise Overloaded(
                    "Too many responses wait for their clients to read them", scope=scope
                )

    def hold(self, call: RequestContext, answer_bytes: int, until: asyncio.Task[object]) -> None:
        """Count a response until the current task, which sends it, is done."""
        release = self.held(call, answer_bytes)
        until.add_done_callback(lambda _: release())

    def holding(self, call: RequestContext, answer_bytes: int) -> AbstractContextManager[None]:
        """Return a context manager that counts a response, unless it is small."""
        if answer_bytes <= UNCOUNTED_BYTES:
            return _UNCOUNTED
        return self._holding(call, answer_bytes)

    @contextmanager
    def _holding(self, call: RequestContext, answer_bytes: int) -> Iterator[None]:
        release = self.held(call, answer_bytes)
        try:
            yield
        finally:
            release()

    def held(self, call: RequestContext, answer_bytes: int) -> Callable[[], None]:
        """Count a response until the returned function is called."""
        size = answer_bytes + self.OVERHEAD_BYTES
        principal, peer = call.principal.quota_key, call.peer
        self._count(principal, peer, size)
        return lambda: self._count(principal, peer, -size)

    def _count(self, principal: str, peer: str, size: int) -> None:
        self._all += size
        held = self._held
        held[principal] = of_caller = held.get(principal, 0) + size
        held[peer] = of_peer = held.get(peer, 0) + size
        if not of_caller:
            del held[principal]
        if not of_peer:
            del held[peer]
