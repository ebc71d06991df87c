"""Credentials: parsing them from a request, and generating and hashing secrets.

A caller sends a key's SID and secret by HTTP Basic, or `SK….secret` as a Bearer token. The user
name of Basic may also be the SID of the key's account, as the vendor's SDKs send by default.
"""

import binascii
import hashlib
import secrets
import string
from base64 import b64decode
from typing import NamedTuple

from interaction_svc.domain.errors import Unauthenticated
from interaction_svc.domain.sids import Sid, canonical_sid

SECRET_LENGTH = 32
"""Characters of a secret: 190 bits. The vendor's Go SDK accepts only letters and digits."""

_ALPHABET = string.ascii_letters + string.digits
_MAX_HEADER = 256
"""The maximum length of the header in characters."""


class Credentials(NamedTuple):
    """A user, which is a key SID or an account SID, and a secret."""

    user: str
    secret: str


def parse_authorization(authorization: str) -> Credentials:
    """Return the credentials of an `authorization` header. Raises Unauthenticated."""
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
    """Return a random secret for a new key."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_LENGTH))


def hash_secret(secret: str) -> bytes:
    """Return the hash of a secret, which the store keeps in place of the secret.

    It is a plain SHA-256, because it is computed on requests. A slow hash would add no security:
    a secret has 190 random bits.
    """
    return hashlib.sha256(secret.encode()).digest()
