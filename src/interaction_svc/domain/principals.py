"""Who is calling, and what they may do.

A caller shows a key: its SID and its secret, as HTTP Basic or, `SK….secret`, as a Bearer token. In
place of the key's SID Basic may name the key's account, as the vendor's SDKs do by default. A key
has one or more roles, and reaches one account; the role `admin` reaches all, and stands alone.
"""

import binascii
import hashlib
import secrets
import string
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

from interaction_svc.domain.errors import PermissionDenied, Unauthenticated
from interaction_svc.domain.sids import Sid, canonical_sid

SECRET_LENGTH = 32
"""Characters of a secret, letters and digits: 190 bits. The vendor's Go SDK takes no others."""

_ALPHABET = string.ascii_letters + string.digits
_MAX_HEADER = 256


class Permission(Enum):
    """What a call needs."""

    READ = "read"
    DELETE = "delete"
    INGEST = "record"


_READ = frozenset({Permission.READ})
_ALL = frozenset(Permission)


class Role(StrEnum):
    """What a key is for."""

    READ = "read"
    OPERATE = "operate"
    INGEST = "ingest"
    ADMIN = "admin"

    @property
    def rights(self) -> frozenset[Permission]:
        """What callers with such a key may do."""
        return _RIGHTS[self]


_RIGHTS = {
    Role.READ: _READ,
    Role.OPERATE: _READ | {Permission.DELETE},
    Role.INGEST: frozenset({Permission.INGEST}),
    Role.ADMIN: _ALL,
}


def spelt(roles: Iterable[Role]) -> str:
    """Return how the store spells a set of roles: `ingest,read`, sorted; one role is its name."""
    return ",".join(sorted(set(roles)))


def roles_of(text: str) -> frozenset[Role]:
    """Read what `spelt` returns. Raises ValueError for a role that this version does not know."""
    return frozenset(map(Role, text.split(",")))


def rights_of(roles: Iterable[Role]) -> frozenset[Permission]:
    """Return the union of what the roles allow."""
    return frozenset().union(*(role.rights for role in roles))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: whose Interactions they reach (None: every account's), with which rights."""

    account_sid: str | None = None
    key_sid: str | None = None
    rights: frozenset[Permission] = _ALL

    @property
    def quota_key(self) -> str:
        """Under which name the caller's share is counted: its account's, or else its key's."""
        return self.account_sid or self.key_sid or "anyone"

    @property
    def scope(self) -> str:
        """What `quota_key` is a name of: an `account`, a `key`, or all `anonymous` callers."""
        if self.account_sid is not None:
            return "account"
        return "anonymous" if self.key_sid is None else "key"

    def require(self, right: Permission) -> None:
        """Raise PermissionDenied unless the caller has this right."""
        if right not in self.rights:
            raise PermissionDenied(f"The key has no role that gives the right to {right.value}")


ANONYMOUS = Principal()
"""Whoever calls where there are no keys, and the command line on a store of its own."""


class Credentials(NamedTuple):
    """What a caller shows: a key SID or an account SID, and a secret."""

    user: str
    secret: str


def parse_authorization(authorization: str) -> Credentials:
    """Read an `authorization` header. Raises Unauthenticated if it is not of a right form."""
    scheme, _, value = authorization.partition(" ")
    if len(authorization) > _MAX_HEADER:
        raise Unauthenticated
    if scheme.lower() == "bearer":
        user, _, secret = value.strip().partition(".")
        well_formed = Sid.API_KEY.matches(user)
    elif scheme.lower() == "basic":
        try:
            user, _, secret = b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, ValueError) as error:
            raise Unauthenticated from error
        well_formed = Sid.API_KEY.matches(user) or Sid.ACCOUNT.matches(user)
    else:
        raise Unauthenticated
    if not (well_formed and secret):
        raise Unauthenticated
    return Credentials(canonical_sid(user), secret)


def new_secret() -> str:
    """Make the secret of a new key."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_LENGTH))


def hash_secret(secret: str) -> bytes:
    """Give what the store keeps of a secret.

    A plain SHA-256: what makes slow hashes of passwords necessary is that people choose them, and
    these are 190 random bits. It runs on calls.
    """
    return hashlib.sha256(secret.encode()).digest()
