"""Limits on requests in progress: in total, per account, and on streams per key."""

import math
from functools import partial
from typing import Self

from interaction_svc.admission.share import Share
from interaction_svc.admission.wait_queue import WaitingCalls, WaitQueue
from interaction_svc.domain.errors import Overloaded
from interaction_svc.domain.principals import ANONYMOUS, Principal

UNKNOWN = ""
"""The name under which the calls wait whose callers are not known yet."""


class ConcurrencyLimit:
    """A limit on the requests in progress, for both transports together.

    A request takes a place before authentication. After authentication further limits apply. The
    requests of one account may hold a share of the places, and its streams may hold another share,
    so one account can't take all places. A key has a maximum number of streams. A caller without an
    account counts under its key. All callers without a key share one limit on streams, and have no
    other limit.

    If all places are taken, a request may wait for one. A request that is not a stream may also
    wait for the share of its account; meanwhile it has no place. A place or a share that becomes
    free is passed to the request that has waited longest. At most `most_waiting` requests wait. Of
    these, the requests of one account may be the same share as of the places.

    The methods that take something without a wait are no coroutines, because a coroutine costs as
    much as they do. All methods run on one event loop.
    """

    def __init__(
        self,
        most: int,
        *,
        most_waiting: int = 0,
        call_share: float = 1,
        stream_share: float = 1,
        streams_per_key: int | None = None,
    ) -> None:
        self._most = most
        self._count = 0
        self._calls = None if call_share == 1 else Share(math.ceil(most * call_share))
        self._streams = Share(math.ceil(most * stream_share))
        self._streams_of_key = Share(streams_per_key or most)
        self._waiting = WaitingCalls(most_waiting, call_share)
        self._for_place = WaitQueue()
        self._for_share: dict[str, WaitQueue] = {}

    @property
    def is_full(self) -> bool:
        """Return whether all places are taken."""
        return self._count >= self._most

    @property
    def refuses(self) -> bool:
        """Return whether one more request would be refused: it could get no place and not wait."""
        return self._count >= self._most and self._waiting.is_full

    def place(self) -> Self | None:
        """Return a context manager that releases a place, which is taken now; None if all are."""
        if self._count >= self._most:
            return None
        self._count += 1
        return self

    async def wait_for_place(self, name: str = UNKNOWN) -> Self:
        """Wait for a place. Return the context manager that releases it.

        `name` is the `quota_key` of the caller. Raises Overloaded if too many requests wait.
        """
        with self._waiting.one(name):
            await self._take_place()
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        if self._for_place:
            self._release_place()
        else:
            self._count -= 1

    def begin(self, principal: Principal, *, is_stream: bool = False) -> bool:
        """Count a request, which has a place, against the share of its caller until `end`.

        Return False if its account has its whole share: then the request may `wait_for_share`.
        Raises Overloaded if the request is a stream beyond a limit. In both cases the request is
        not counted.
        """
        name = principal.quota_key
        if self._calls is not None and principal is not ANONYMOUS and not self._calls.take(name):
            if is_stream:
                raise _beyond("calls", principal.scope, self._calls.most)
            return False
        if is_stream:
            try:
                self._begin_stream(principal, name)
            except Overloaded:
                self._end_call(principal, name)
                raise
        return True

    async def wait_for_share(self, principal: Principal) -> None:
        """Do what `begin` does, after a wait in which the request does not hold its place.

        Raises Overloaded if too many requests wait.
        """
        calls, name = self._calls, principal.quota_key
        assert calls is not None  # noqa: S101 `begin` has returned False
        with self._waiting.one(name, lambda: _beyond("calls", principal.scope, calls.most)):
            self._release_place()
            try:
                queue = self._for_share.setdefault(name, WaitQueue())
                await queue.wait(partial(self._end_call, principal, name))
                try:
                    await self._take_place()
                except BaseException:
                    self._end_call(principal, name)
                    raise
            except BaseException:
                # The caller releases the place without running anything else before.
                self._count += 1
                raise

    def end(self, principal: Principal, *, is_stream: bool = False) -> None:
        """Undo `begin`. The arguments must be the same."""
        name = principal.quota_key
        self._end_call(principal, name)
        if is_stream:
            self._streams.refund(name)
            if principal.key_sid is not None:
                self._streams_of_key.refund(principal.key_sid)

    async def _take_place(self) -> None:
        if self.place() is None:
            await self._for_place.wait(self._release_place)

    def _release_place(self) -> None:
        if self._count > self._most or not self._for_place.pass_on():
            self._count -= 1

    def _begin_stream(self, principal: Principal, name: str) -> None:
        if not self._streams.take(name):
            raise _beyond("streams", principal.scope, self._streams.most)
        key = principal.key_sid
        if key is not None and not self._streams_of_key.take(key):
            self._streams.refund(name)
            raise _beyond("streams", "key", self._streams_of_key.most)

    def _end_call(self, principal: Principal, name: str) -> None:
        if self._calls is None or principal is ANONYMOUS:
            return
        if not self._for_share or not self._pass_share_on(name):
            self._calls.refund(name)

    def _pass_share_on(self, name: str) -> bool:
        """Pass a part of the share to the next request of this name that waits for it, if any."""
        queue = self._for_share.get(name)
        if queue is None:
            return False
        is_passed = queue.pass_on()
        if not queue:
            del self._for_share[name]
        return is_passed


_HOLDERS = {"account": "an account", "key": "a key", "anonymous": "all callers without a key"}


def _beyond(what: str, scope: str, most: int) -> Overloaded:
    return Overloaded(
        f"Too many {what} at once: {_HOLDERS[scope]} may have {most:,}",
        scope=scope,
        limit=str(most),
    )
