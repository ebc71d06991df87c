"""Limits on requests per second, and on attempts with wrong credentials."""

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
"""The limit on attempts with wrong credentials from one peer: 10 at once, then 1 a second."""


class RequestRateLimit:
    """A limit on the requests per second of each account. A burst may have the same number."""

    def __init__(self, per_second: int, clock: Clock = time.monotonic) -> None:
        self._per_second = per_second
        self._rate = KeyedTokenBucket(per_second, per_second, clock) if per_second else None

    def count(self, principal: Principal) -> None:
        """Count a request under its account, or else under its key. Raises RateLimited."""
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
    """A limit on wrong credentials from one peer: WRONG_AT_ONCE at once, then WRONG_PER_SECOND.

    A peer is an IPv4 address, or the /64 network of an IPv6 address, because one machine usually
    has a whole /64. Correct credentials are not counted.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._rate = KeyedTokenBucket(WRONG_PER_SECOND, WRONG_AT_ONCE, clock)

    @contextmanager
    def one(self, peer: str) -> Iterator[float]:
        """Context manager around one attempt. The block raises Unauthenticated if it fails.

        Yields 0, or the seconds to wait if the peer has no attempts left. In that case the attempt
        is not counted, and for wrong credentials the caller must raise `refusal` and not
        Unauthenticated. A counted attempt counts as wrong from its start until it succeeds, so at
        most WRONG_AT_ONCE run at the same time.
        """
        network = _network_of(peer)
        wait = self._rate.take(network)
        try:
            yield wait
        except Unauthenticated:
            raise
        except BaseException:  # it is unknown whether the credentials are correct
            self._give_back(network, wait)
            raise
        self._give_back(network, wait)

    @staticmethod
    def refusal(wait_seconds: float) -> RateLimited:
        """Return the error for a peer that gets its next attempt after this number of seconds."""
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
    """Return the network under which a peer, `host:port` or `[ipv6]:port`, is counted."""
    host = peer.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_link_local or address.is_loopback:  # many machines share this network
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))
