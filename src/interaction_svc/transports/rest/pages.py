"""A page of a list, which is read from the store and sent in parts if it is large.

A page over HTTP has the requested number of rows as long as there are that many, because some SDKs
take a shorter page for the last one. Its rows can have 256 MiB. Nearly all pages have one part.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from interaction_svc.app.interactions import Page
from interaction_svc.codec.twilio_json import LIST_KEY
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.transports.rest.json_cache import JsonCache
from interaction_svc.transports.rest.responses import JsonStream

READ_BYTES = MIB
"""The size of one read from the store."""
LIST_BEGIN = b'{"%b":[' % LIST_KEY.encode()
"""The JSON of a page before its first row."""
_SENT_BYTES = 256 * KIB
"""Rendered rows are sent once they have this size."""

Read = Callable[[str, int], Awaitable[Page]]
"""Reads the page with a token: at most the given number of rows, and READ_BYTES."""


class FirstPart(NamedTuple):
    """The first part of a page."""

    page: Page
    following: int
    """The number of rows to read after the first part, if there are that many."""
    page_size: int
    """The number of rows that the page may have."""


async def read_first(read: Read, token: str, size: int) -> FirstPart:
    """Read the first part of a page of `size` rows; 0 is the default.

    A page before a row is read from its end. If one read is not enough, further reads find its
    beginning; their rows are dropped, and read again when they are sent.
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
    """Return the number of rows of the next read: at most twice the number of the read before.

    The next rows probably have similar sizes, and a store visits every row of the limit, not only
    those that fit into the read.
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

    `end` gets the first and the last part. An error leaves the response without its end, so that
    the client notices it.
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
