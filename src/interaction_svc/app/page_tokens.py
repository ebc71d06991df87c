"""Page tokens (AIP-158): the position where a page begins, and digests of the list's arguments.

A page token is a PageToken message as an opaque token (interaction_svc.app.opaque_token).
"""

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError

from interaction_svc.app import opaque_token
from interaction_svc.domain.errors import InvalidPageToken, PageTokenMismatch
from interaction_svc.domain.paging import Cursor, Position
from interaction_svc.domain.sids import Sid
from interaction_svc.internal.v1.page_token_pb2 import PageToken

MAX_TOKEN_LENGTH = 512
"""The maximum length of a token in characters."""
_VERSION = 2
_CHECKSUM_BYTES = 6
_is_place = re.compile(
    f"(?:{Sid.INTERACTION.canonical})?,(?:{Sid.ACCOUNT.canonical})?"
).fullmatch  # stores pack these SIDs into bytes, and can't pack other text


class PageTokens(NamedTuple):
    """Encodes and decodes the page tokens of one list.

    Its fields are the request arguments that must be the same for all pages. The page size may
    change between pages.
    """

    service_sid: str
    session_sid: str
    account_sid: str
    """The account whose Interactions are listed; empty for all accounts."""
    order: int
    filter: bytes

    def encode(self, cursor: Cursor) -> str:
        """Return the token of the page that begins at `cursor`."""
        body = PageToken(
            version=_VERSION,
            created_us=cursor.position.created_us,
            sid=cursor.position.sid,
            account_sid=cursor.position.account_sid,
            backward=cursor.backward,
            inclusive=cursor.inclusive,
            order=self.order,
            service_digest=_digest(self.service_sid.encode()),
            session_digest=_digest(self.session_sid.encode()),
            account_digest=_digest(self.account_sid.encode()),
            filter_digest=_digest(self.filter),
        ).SerializeToString()
        return opaque_token.encode(body, checksum_bytes=_CHECKSUM_BYTES)

    def decode(self, token: str) -> Cursor:
        """Return the cursor of a token.

        Raises InvalidPageToken if the token is damaged or of another version, PageTokenMismatch if
        it belongs to another list.
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


def _decode(token: str) -> PageToken:
    try:
        body = opaque_token.decode(
            token, checksum_bytes=_CHECKSUM_BYTES, max_length=MAX_TOKEN_LENGTH
        )
        found = PageToken.FromString(body)
    except (opaque_token.DamagedTokenError, DecodeError) as error:
        raise InvalidPageToken from error
    if found.version != _VERSION:
        raise InvalidPageToken
    return found


@lru_cache(maxsize=1024)  # all pages of a list have the same digests
def _digest(value: bytes) -> int:
    return int.from_bytes(hashlib.sha256(value).digest()[:4], "big")
