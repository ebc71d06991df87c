"""Limits on requests in progress: in total, per account, and on streams per key."""

import math
from typing import Self

from interaction_svc.domain.errors import Overloaded
from interaction_svc.domain.principals import ANONYMOUS, Principal


class Share:
    """The number of places that each name may hold at the same time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Hold a place for this name. Return False if the name already holds all of its places."""
        held = self._held.get(name, 0)
        if held >= self.most:
            return False
        self._held[name] = held + 1
        return True

    def refund(self, name: str) -> None:
        """Release a place of this name."""
        held = self._held[name] - 1
        if held:
            self._held[name] = held
        else:
            del self._held[name]


class ConcurrencyLimit:
    """A limit on the requests in progress, for both transports together.

    `slot` takes a place before authentication. After authentication further limits apply. The
    requests of one account may hold a share of the places, and its streams may hold another share,
    so one account can't take all places. A key has a maximum number of streams. A caller without an
    account counts under its key. All callers without a key share one limit on streams, and have no
    other limit.
    """

    def __init__(
        self,
        most: int,
        *,
        call_share: float = 1,
        stream_share: float = 1,
        streams_per_key: int | None = None,
    ) -> None:
        self._most = most
        self._count = 0
        self._calls = None if call_share == 1 else Share(math.ceil(most * call_share))
        self._streams = Share(math.ceil(most * stream_share))
        self._streams_of_key = Share(streams_per_key or most)

    @property
    def is_full(self) -> bool:
        """Return whether one more request would be refused."""
        return self._count >= self._most

    def slot(self) -> Self:
        """Return a context manager that holds a place. Raises Overloaded if there is none."""
        if self._count >= self._most:
            raise Overloaded
        return self

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1

    def begin(self, principal: Principal, *, is_stream: bool = False) -> None:
        """Count a request, which has a place, against the share of its caller until `end`.

        Raises Overloaded, and then does not count the request.
        """
        name = principal.quota_key
        if self._calls is not None and principal is not ANONYMOUS and not self._calls.take(name):
            raise _beyond("calls", principal.scope, self._calls.most)
        if is_stream:
            try:
                self._begin_stream(principal, name)
            except Overloaded:
                self._end_call(principal, name)
                raise

    def end(self, principal: Principal, *, is_stream: bool = False) -> None:
        """Undo `begin`. The arguments must be the same."""
        name = principal.quota_key
        self._end_call(principal, name)
        if is_stream:
            self._streams.refund(name)
            if principal.key_sid is not None:
                self._streams_of_key.refund(principal.key_sid)

    def _begin_stream(self, principal: Principal, name: str) -> None:
        if not self._streams.take(name):
            raise _beyond("streams", principal.scope, self._streams.most)
        key = principal.key_sid
        if key is not None and not self._streams_of_key.take(key):
            self._streams.refund(name)
            raise _beyond("streams", "key", self._streams_of_key.most)

    def _end_call(self, principal: Principal, name: str) -> None:
        if self._calls is not None and principal is not ANONYMOUS:
            self._calls.refund(name)


_HOLDERS = {"account": "an account", "key": "a key", "anonymous": "all callers without a key"}


def _beyond(what: str, scope: str, most: int) -> Overloaded:
    return Overloaded(
        f"Too many {what} at once: {_HOLDERS[scope]} may have {most:,}",
        scope=scope,
        limit=str(most),
    )
