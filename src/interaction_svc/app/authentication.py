"""Authentication of callers by the API keys in the store.

A successful authentication is cached for SECONDS_KNOWN. A key that another process revokes is
therefore refused after at most that time.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from functools import partial
from typing import NamedTuple

import structlog

from interaction_svc.admission.rate_limits import FailedAuthLimiter
from interaction_svc.admission.token_bucket import Clock
from interaction_svc.app.credentials import Credentials, hash_secret, parse_authorization
from interaction_svc.app.key_hashes import KeyHashes
from interaction_svc.app.store_calls import store_call
from interaction_svc.domain.errors import Unauthenticated
from interaction_svc.domain.principals import ANONYMOUS, Principal, Role, parse_roles, rights_of
from interaction_svc.domain.sids import Sid
from interaction_svc.store import ApiKey, Store

log = structlog.get_logger()

SECONDS_KNOWN = 2.0
MAX_KNOWN = 10_000
"""The maximum number of successful authentications in the cache."""


class _Known(NamedTuple):
    principal: Principal
    until: float


class Authenticator:
    """Returns the principal for the credentials of a request.

    With `allows_anonymous`, callers need no key until the first key is created. Until then,
    well-formed credentials are accepted without a check. If their user is an account SID, the
    caller is limited to that account.

    An address with too many wrong credentials is refused without a look-up in the store. Valid
    credentials from such an address are still accepted: KeyHashes recognizes them.
    """

    def __init__(
        self, store: Store, *, allows_anonymous: bool, clock: Clock = time.monotonic
    ) -> None:
        self._store = store
        self._allows_anonymous = allows_anonymous
        self._clock = clock
        self._attempts = FailedAuthLimiter(clock)
        self._hashes = KeyHashes(store, clock)
        # Cache keys are keyed hashes, so that the time of a look-up reveals nothing about a secret.
        self._hash_key = secrets.token_bytes(32)
        self._known: dict[bytes, _Known] = {}
        self._checking: dict[bytes, asyncio.Task[Principal]] = {}
        self._open_until = 0.0

    def cached(self, authorization: str | None) -> Principal | None:
        """Return the principal if these credentials were accepted in the last 2 s, else None."""
        known = self._known.get(self._digest_of(authorization))
        return known.principal if known is not None and known.until > self._clock() else None

    async def authenticate(self, authorization: str | None, peer: str) -> Principal:
        """Return the principal. Raises Unauthenticated, RateLimited, Unavailable."""
        digest = self._digest_of(authorization)
        known = self._known.get(digest)
        if known is not None and known.until > self._clock():
            return known.principal
        if await self.is_open():
            return _unchecked_principal(authorization)
        if authorization is None:
            raise Unauthenticated
        credentials = parse_authorization(authorization)
        checking = self._checking.get(digest)
        if checking is None:  # concurrent requests share one look-up, and count as one attempt
            checking = asyncio.create_task(self._check(credentials, digest, peer))
            self._checking[digest] = checking
            checking.add_done_callback(partial(self._end_check, digest))
        return await asyncio.shield(checking)

    async def check_again(self, authorization: str | None) -> None:
        """Raise Unauthenticated if credentials that were accepted are no longer valid.

        This check is not rate limited. Otherwise failed attempts from the same address would
        block it, and the streams of a revoked key would stay open. Raises Unavailable.
        """
        digest = self._digest_of(authorization)
        known = self._known.get(digest)
        if (known is not None and known.until > self._clock()) or await self.is_open():
            return
        if authorization is None:
            raise Unauthenticated
        self._remember(digest, await self._checked(parse_authorization(authorization), digest))

    async def is_open(self) -> bool:
        """Return whether callers need no key. After the first key was created it stays False."""
        if not self._allows_anonymous:
            return False
        if self._open_until <= self._clock():
            with store_call("has_keys"):
                self._allows_anonymous = not await self._store.has_keys()
            if not self._allows_anonymous:
                log.info("the store has a key: callers now need one")
            self._open_until = self._clock() + SECONDS_KNOWN
        return self._allows_anonymous

    async def _check(self, credentials: Credentials, digest: bytes, peer: str) -> Principal:
        with self._attempts.one(peer) as wait:
            if wait and not await self._hashes.has(hash_secret(credentials.secret)):
                raise FailedAuthLimiter.refusal(wait)
            principal = await self._checked(credentials, digest)
        self._remember(digest, principal)
        return principal

    def _end_check(self, digest: bytes, checking: asyncio.Task[Principal]) -> None:
        del self._checking[digest]
        if not checking.cancelled():
            checking.exception()  # retrieved, so that asyncio does not log it

    async def _checked(self, credentials: Credentials, digest: bytes) -> Principal:
        with store_call("keys_of"):
            keys = await self._store.keys_of(credentials.user)
        shown = hash_secret(credentials.secret)
        matching = [key for key in keys if hmac.compare_digest(key.secret_hash, shown)]
        for key in matching:
            if key.revoked_us is None and (roles := _known_roles(key)):
                account_sid = None if Role.ADMIN in roles else key.account_sid
                return Principal(account_sid, key.sid, rights_of(roles))
        self._known.pop(digest, None)
        raise Unauthenticated

    def _digest_of(self, authorization: str | None) -> bytes:
        return hashlib.blake2b((authorization or "").encode(), key=self._hash_key).digest()

    def _remember(self, digest: bytes, principal: Principal) -> None:
        self._known.pop(digest, None)
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]  # the oldest
        self._known[digest] = _Known(principal, self._clock() + SECONDS_KNOWN)


def _known_roles(key: ApiKey) -> frozenset[Role]:
    """Return the roles of a key; none, and log it, if this version does not know one of them."""
    try:
        return parse_roles(key.role)
    except ValueError:  # a later version of the service created the key
        log.error(
            "key refused: a role of it is unknown to this version", key_sid=key.sid, role=key.role
        )
        return frozenset()


def _unchecked_principal(authorization: str | None) -> Principal:
    if authorization is None:
        return ANONYMOUS
    user, _ = parse_authorization(authorization)
    return Principal(account_sid=user) if Sid.ACCOUNT.matches(user) else ANONYMOUS
