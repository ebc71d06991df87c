"""How much the service takes on: calls at once, calls a second, attempts with wrong credentials."""

import asyncio
import ipaddress
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from interaction_svc.domain.errors import Overloaded, RateLimited, Unauthenticated
from interaction_svc.domain.principals import ANYONE, Caller
from interaction_svc.telemetry.request_context import Call

KIB = 1024
MIB = 1024 * KIB

WRONG_AT_ONCE = 10
WRONG_PER_SECOND = 1.0
"""How often an address may show wrong credentials: this many at once, then so many a second."""

_ROUNDING = 1e-9
Clock = Callable[[], float]


class Share:
    """How many of something each name may hold at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Take one for this name; return False, and take none, if it holds as many as it may."""
        held = self._held.get(name, 0)
        if held >= self.most:
            return False
        self._held[name] = held + 1
        return True

    def give_back(self, name: str) -> None:
        """Return one that was taken."""
        held = self._held[name] - 1
        if held:
            self._held[name] = held
        else:
            del self._held[name]


class Concurrency:
    """How many calls are worked on at once, over both transports.

    A place is taken before the caller is known (`slot`). Once the caller is known, its account may
    hold a share of the places with all its calls, and a smaller one with its streams, so that
    neither takes the last place from others; a key may have a number of streams. A caller without
    an account counts as its key. Callers without a key are one for streams, and for other calls
    have no share: where there are no keys there is nobody to keep places for.
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
        """Whether one more would be refused."""
        return self._count >= self._most

    def slot(self) -> Self:
        """Hold a place while the block runs. Raises Overloaded if there is none."""
        if self._count >= self._most:
            raise Overloaded
        return self

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1

    def begin(self, caller: Caller, *, is_stream: bool = False) -> None:
        """Count a call, which has a place, against the caller's share; `end` ends that.

        Raises Overloaded, and then has counted nothing.
        """
        name = caller.rate_name
        if self._calls is not None and caller is not ANYONE and not self._calls.take(name):
            raise _beyond("calls", caller.scope, self._calls.most)
        if is_stream:
            try:
                self._begin_stream(caller, name)
            except Overloaded:
                self._end_call(caller, name)
                raise

    def end(self, caller: Caller, *, is_stream: bool = False) -> None:
        """End what `begin` began, with the same arguments."""
        name = caller.rate_name
        self._end_call(caller, name)
        if is_stream:
            self._streams.give_back(name)
            if caller.key_sid is not None:
                self._streams_of_key.give_back(caller.key_sid)

    def _begin_stream(self, caller: Caller, name: str) -> None:
        if not self._streams.take(name):
            raise _beyond("streams", caller.scope, self._streams.most)
        key = caller.key_sid
        if key is not None and not self._streams_of_key.take(key):
            self._streams.give_back(name)
            raise _beyond("streams", "key", self._streams_of_key.most)

    def _end_call(self, caller: Caller, name: str) -> None:
        if self._calls is not None and caller is not ANYONE:
            self._calls.give_back(name)


_HOLDERS = {"account": "an account", "key": "a key", "anonymous": "all callers without a key"}


def _beyond(what: str, scope: str, most: int) -> Overloaded:
    return Overloaded(
        f"Too many {what} at once: {_HOLDERS[scope]} may have {most:,}",
        scope=scope,
        limit=str(most),
    )


class Unsent:
    """The answers that clients have not taken yet, in bytes: of a connection, an account, and all.

    What a call holds of the service otherwise ends with its work; but an answer stays in memory as
    long as its client leaves it there, and gRPC can't take it back. In memory it is there twice,
    for gRPC has a copy.
    """

    MAX_BYTES = 256 * MIB
    MAX_BYTES_AN_ACCOUNT = 128 * MIB
    MAX_BYTES_A_CONNECTION = 64 * MIB
    OVERHEAD_BYTES = 16 * KIB
    """What a call costs beside its answer."""

    def __init__(self) -> None:
        self._all = 0
        self._held: dict[str, int] = {}  # by account, or key, and by connection

    def check(self, call: Call, answer_bytes: int = 0) -> None:
        """Raise Overloaded if answers have to be taken before there may be this one more."""
        size = answer_bytes + self.OVERHEAD_BYTES
        if self._all + size <= self.MAX_BYTES_A_CONNECTION:  # as nearly always: it is the least
            return
        held = self._held.get
        for scope, waiting, most in (
            ("service", self._all, self.MAX_BYTES),
            (call.caller.scope, held(call.caller.rate_name, 0), self.MAX_BYTES_AN_ACCOUNT),
            ("connection", held(call.peer, 0), self.MAX_BYTES_A_CONNECTION),
        ):
            if waiting + size > most:
                raise Overloaded(
                    "Too many answers wait for their clients to take them", scope=scope
                )

    def hold(self, call: Call, answer_bytes: int, until: asyncio.Task[object]) -> None:
        """Count an answer until the task that sends it is done."""
        release = self.held(call, answer_bytes)
        until.add_done_callback(lambda _: release())

    def held(self, call: Call, answer_bytes: int) -> Callable[[], None]:
        """Count an answer until what this returns is called."""
        size = answer_bytes + self.OVERHEAD_BYTES
        caller, peer = call.caller.rate_name, call.peer
        self._count(caller, peer, size)
        return lambda: self._count(caller, peer, -size)

    def _count(self, caller: str, peer: str, size: int) -> None:
        self._all += size
        held = self._held
        held[caller] = of_caller = held.get(caller, 0) + size
        held[peer] = of_peer = held.get(peer, 0) + size
        if not of_caller:
            del held[caller]
        if not of_peer:
            del held[peer]


class Rate:
    """A token bucket for each name: `per_second` on average, and up to `burst` at once.

    Kept as one time a name, at which its bucket will be full again (the generic cell rate
    algorithm). Names whose bucket is full are forgotten when there are many, so memory is bounded
    by how many names are active at once.
    """

    MAX_NAMES = 10_000

    def __init__(self, per_second: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._interval = 1 / per_second
        self._tolerance = (burst - 1) * self._interval
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def take(self, name: str) -> float:
        """Take a token; give 0, or the seconds to wait until there is one, and then take none."""
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now)
        wait = full_at - self._tolerance - now
        if wait > _ROUNDING:
            return wait
        if name not in self._full_at and len(self._full_at) >= self.MAX_NAMES:
            self._forget(now)
        self._full_at[name] = full_at + self._interval
        return 0.0

    def give_back(self, name: str) -> None:
        """Put a token back."""
        if name in self._full_at:
            self._full_at[name] -= self._interval

    def _forget(self, now: float) -> None:
        kept = [(name, at) for name, at in self._full_at.items() if at > now]
        # Better to forget the oldest than to grow; and many at once, for to look costs as many.
        self._full_at = dict(kept[-(self.MAX_NAMES // 2) :])


class CallRate:
    """How many calls a second each account makes; bursts of a second's worth are taken."""

    def __init__(self, per_second: int, clock: Clock = time.monotonic) -> None:
        self._per_second = per_second
        self._rate = Rate(per_second, per_second, clock) if per_second else None

    def count(self, caller: Caller) -> None:
        """Count a call: against its account, or where it has none against its key.

        Raises RateLimited.
        """
        if self._rate is None:
            return
        if wait := self._rate.take(caller.rate_name):
            raise RateLimited(
                f"Too many requests: an account may make {self._per_second:,} calls a second",
                scope=caller.scope,
                per_second=self._per_second,
                retry_after_seconds=math.ceil(wait),
            )


class Attempts:
    """How often a peer may show credentials that turn out wrong: WRONG_AT_ONCE, then 1 a second.

    A peer is an IPv4 address or the /64 of an IPv6 address, which is what one machine has.
    Credentials that are right use nothing up.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._rate = Rate(WRONG_PER_SECOND, WRONG_AT_ONCE, clock)

    @contextmanager
    def one(self, peer: str) -> Iterator[float]:
        """Make an attempt within the block, which raises Unauthenticated if it is wrong.

        Yields 0, or the seconds to wait if the peer's attempts are used up: this one then neither
        counts nor is allowed to be wrong. It counts as wrong from its beginning, so that no more
        than WRONG_AT_ONCE are under way.
        """
        network = _network_of(peer)
        wait = self._rate.take(network)
        try:
            yield wait
        except Unauthenticated:
            raise
        except BaseException:  # nothing is known of the credentials
            self._give_back(network, wait)
            raise
        self._give_back(network, wait)

    @staticmethod
    def refusal(wait_seconds: float) -> RateLimited:
        """Return the error of a peer whose attempts are used up for this time."""
        return RateLimited(
            "Too many wrong credentials from this address",
            scope="address",
            per_second=WRONG_PER_SECOND,
            retry_after_seconds=math.ceil(wait_seconds),
        )

    def _give_back(self, network: str, wait: float) -> None:
        if not wait:
            self._rate.give_back(network)


def _network_of(peer: str) -> str:
    """Give the part of `host:port` or `[ipv6]:port` that tells machines apart."""
    host = peer.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_link_local or address.is_loopback:  # everybody's network
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))
