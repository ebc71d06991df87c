"""Page sizes and page tokens.

A page token says at which row a page begins and of which list it is (AIP-158). It is a PageToken
message behind a checksum, in base64url without padding: only `[A-Za-z0-9_-]`, because one of the
vendor's SDKs can't pass on other characters. The checksum tells a damaged token from a good one;
it is no secret, for a token grants nothing: every call is held to what its caller may see.
"""

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError

from interaction_svc.domain.errors import InvalidField, InvalidPageToken, PageTokenMismatch
from interaction_svc.domain.sids import Sid
from interaction_svc.internal.v1.page_token_pb2 import PageToken

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
MAX_TOKEN_LENGTH = 512
_VERSION = 2
_CHECKSUM_BYTES = 6
_is_place = re.compile(
    f"(?:{Sid.INTERACTION.canonical})?,(?:{Sid.ACCOUNT.canonical})?"
).fullmatch  # stores pack SIDs, which no other text allows


class Position(NamedTuple):
    """A place in a Session's order: a row's creation in microseconds, its SID, and its account.

    With an empty SID: the place before every row that was created at that time. The account is
    empty in a list of one account, where it says nothing.
    """

    created_us: int
    sid: str
    account_sid: str = ""


class Cursor(NamedTuple):
    """Where a page begins: after this row in the order of the list, or before it if `backward`.

    The row itself is not of the page, unless `inclusive`; it need not be there any more.
    """

    position: Position
    backward: bool = False
    inclusive: bool = False


class PageTokens(NamedTuple):
    """What must stay the same from page to page: the arguments of a list but its page size."""

    service_sid: str
    session_sid: str
    account_sid: str
    """The account whose Interactions are listed; empty: every account's."""
    order: int
    filter: bytes

    def token(self, edge: Cursor) -> str:
        """Make the token of the page that begins at this edge."""
        body = PageToken(
            version=_VERSION,
            created_us=edge.position.created_us,
            sid=edge.position.sid,
            account_sid=edge.position.account_sid,
            backward=edge.backward,
            inclusive=edge.inclusive,
            order=self.order,
            service_digest=_digest(self.service_sid.encode()),
            session_digest=_digest(self.session_sid.encode()),
            account_digest=_digest(self.account_sid.encode()),
            filter_digest=_digest(self.filter),
        ).SerializeToString()
        return urlsafe_b64encode(_checksum(body) + body).rstrip(b"=").decode()

    def read(self, token: str) -> Cursor:
        """Give the edge that a token was made of.

        Raises InvalidPageToken if the token is damaged, PageTokenMismatch if it is another list's.
        """
        found = _decode(token)
        if found.service_digest != _digest(self.service_sid.encode()):
            raise PageTokenMismatch("service_sid")
        if found.session_digest != _digest(self.session_sid.encode()):
            raise PageTokenMismatch("session_sid")
        if found.account_digest != _digest(self.account_sid.encode()):
            raise PageTokenMismatch("account_sid")
        if found.order != self.order:
            raise PageTokenMismatch("order")
        if found.filter_digest != _digest(self.filter):
            raise PageTokenMismatch("filter")
        if not _is_place(f"{found.sid},{found.account_sid}"):
            raise InvalidPageToken
        position = Position(found.created_us, found.sid, found.account_sid)
        return Cursor(position, found.backward, found.inclusive)


def resolve_page_size(size: int) -> int:
    """Give how many rows a page has: 0 is the default, too many is the maximum (AIP-158).

    Raises InvalidField if it is negative.
    """
    if size < 0:
        raise InvalidField("page_size", f"must not be negative; 0 means {DEFAULT_PAGE_SIZE}")
    return min(size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE


def _decode(token: str) -> PageToken:
    try:
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidPageToken
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        # The decoder passes over foreign characters and spare bits; a token has one spelling only.
        if urlsafe_b64encode(raw).rstrip(b"=") != token.encode():
            raise InvalidPageToken
        body = raw[_CHECKSUM_BYTES:]
        if raw[:_CHECKSUM_BYTES] != _checksum(body):
            raise InvalidPageToken
        found = PageToken.FromString(body)
    except (binascii.Error, ValueError, DecodeError) as error:
        raise InvalidPageToken from error
    if found.version != _VERSION:
        raise InvalidPageToken
    return found


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]


@lru_cache(maxsize=1024)  # a page's token needs three, mostly of what the page before had
def _digest(value: bytes) -> int:
    return int.from_bytes(hashlib.sha256(value).digest()[:4], "big")
