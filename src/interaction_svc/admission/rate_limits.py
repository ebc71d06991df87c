"""Limits on requests a second, and on attempts with wrong credentials."""

import ipaddress
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from interaction_svc.admission.token_bucket import Clock, KeyedTokenBucket
from interaction_svc.domain.errors import RateLimited, Unauthenticated
from interaction_svc.domain.principals import Principal

WRONG_AT_ONCE = 10
WRONG_PER_SECOND = 1.0
"""Wrong credentials that an address may show: 10 at once, then 1 a second."""


class RequestRateLimit:
    """How many calls a second each account makes; bursts of a second's worth are taken."""

    def __init__(self, per_second: int, clock: Clock = time.monotonic) -> None:
        self._per_second = per_second
        self._rate = KeyedTokenBucket(per_second, per_second, clock) if per_second else None

    def count(self, principal: Principal) -> None:
        """Count a call: against its account, or where it has none against its key.

        Raises RateLimited.
        """
        if self._rate is None:
            return
        if wait := self._rate.take(principal.quota_key):
            raise RateLimited(
                f"Too many requests: an account may make {self._per_second:,} calls a second",
                scope=principal.scope,
                per_second=self._per_second,
                retry_after_seconds=math.ceil(wait),
            )


class FailedAuthLimiter:
    """How often a peer may show credentials that turn out wrong: WRONG_AT_ONCE, then 1 a second.

    A peer is an IPv4 address or the /64 of an IPv6 address, which is what one machine has.
    Credentials that are right use nothing up.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._rate = KeyedTokenBucket(WRONG_PER_SECOND, WRONG_AT_ONCE, clock)

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
            self._rate.refund(network)


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
