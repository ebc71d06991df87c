"""Who is calling, as their `authorization` says.

Both transports take HTTP Basic. The user name is an account SID, and the caller then sees that
account only, or an API key SID. This version keeps no keys: it does not check the secret, which
only has to be there, so it is for a loopback address or behind something that does check.
"""

import binascii
from base64 import b64decode
from dataclasses import dataclass

from interaction_svc.errors import Unauthenticated
from interaction_svc.sids import Sid


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling: whose Interactions they may read and write; None: every account's."""

    account_sid: str | None = None


ANYONE = Caller()


def caller_of(authorization: str) -> Caller:
    """Read an `authorization` header. Raises Unauthenticated if it is not of the right form."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise Unauthenticated
    try:
        user, found, secret = b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise Unauthenticated from error
    if not found or not secret:
        raise Unauthenticated
    if Sid.ACCOUNT.matches(user):
        return Caller(account_sid=user)
    if Sid.API_KEY.matches(user):
        return ANYONE
    raise Unauthenticated
