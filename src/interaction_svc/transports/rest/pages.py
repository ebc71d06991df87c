"""Reading and sending of a page of a list, in several parts if it is large.

A page over HTTP has the requested number of rows if there are that many, because some SDKs take a
shorter page for the last one. The rows of a page can have 256 MiB. Nearly all pages have one part.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from interaction_svc.app.interactions import Page
from interaction_svc.codec.twilio_json import LIST_KEY
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.transports.asgi.json_cache import JsonCache
from interaction_svc.transports.rest.responses import JsonStream

READ_BYTES = MIB
"""The size of one read from the store."""
LIST_BEGIN = b'{"%b":[' % LIST_KEY.encode()
"""The JSON of a page before its first row."""
_SENT_BYTES = 256 * KIB
"""Rendered rows are sent once they have this size."""

Read = Callable[[str, int], Awaitable[Page]]
"""A function from a page token and a maximum number of rows to a page of at most READ_BYTES."""


class FirstPart(NamedTuple):
    """The first part of a page."""

    page: Page
    following: int
    """The number of rows to read after the first part, if there are that many."""
    page_size: int
    """The maximum number of rows of the page."""


async def read_first(read: Read, token: str, size: int) -> FirstPart:
    """Read the first part of a page of `size` rows; 0 is the default.

    The page of a `previous_page_token` is read backward, from its end. If it has several parts, all
    are read to find its beginning. The rows of the later parts are dropped, and read again when
    they are sent.
    """
    part = await read(token, size)
    size = part.page_size
    if not part.backward:
        return FirstPart(part, size - part.rows if part.next_page_token else 0, size)
    rows = part.rows
    while rows < size and part.previous_page_token:
        before = await read(part.previous_page_token, _next_rows(part, size - rows))
        if not before.rows:  # deleted meanwhile
            part = part._replace(previous_page_token="")
            break
        rows += before.rows
        part = before
    return FirstPart(part, rows - part.rows, size)


def _next_rows(part: Page, wanted: int) -> int:
    """Return the limit of the next read: at most twice the number of rows of the last read.

    The next rows probably have similar sizes, and a store visits all rows up to the limit, also
    those that do not fit into the read.
    """
    return min(wanted, 2 * part.rows)


async def send(
    stream: JsonStream,
    cache: JsonCache,
    read: Read,
    first: FirstPart,
    end: Callable[[Page, Page], bytes],
) -> None:
    """Send a page while it is read. `end` returns the JSON after the rows.

    `end` gets the first and the last part. After an error the end of the response is not sent, so
    that the client detects the error.
    """
    part, following, _ = first
    unsent, separator = bytearray(LIST_BEGIN), b""
    while True:
        for row in cache.render_each(part.frames):
            unsent += separator
            unsent += row
            separator = b","
            if len(unsent) >= _SENT_BYTES:
                await stream.send(bytes(unsent))
                unsent.clear()
        if not (following and part.next_page_token):
            break
        part = await read(part.next_page_token, _next_rows(part, following))
        following -= part.rows
    await stream.send(bytes(unsent) + end(first.page, part), is_last=True)
