"""A page of a list, read from the store in parts where it is large.

A page over HTTP has as many rows as were asked for, while there are that many: some SDKs take a
shorter page for the last one. Its rows may be 256 MiB, so that it is read, and sent, in parts.
Nearly all pages are one part.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from interaction_svc.app.interactions import Page
from interaction_svc.codec.twilio_json import LIST_KEY
from interaction_svc.transports.rest.json_cache import JsonCache
from interaction_svc.transports.rest.responses import JsonStream

READ_BYTES = 1024 * 1024
"""How much is read of the store at once."""
LIST_BEGIN = b'{"%b":[' % LIST_KEY.encode()
"""What a page begins with, as JSON; its rows follow."""
_SENT_BYTES = 256 * 1024
"""As soon as so much is there to be sent, it is sent."""

Read = Callable[[str, int], Awaitable[Page]]
"""Reads so many rows at most, and READ_BYTES, of the page with this token."""


class Begun(NamedTuple):
    """A page of which the first part is read."""

    first: Page
    following: int
    """How many rows are still to be read behind those of the first part, if they are there."""
    page_size: int


async def begin(read: Read, token: str, size: int) -> Begun:
    """Read the first part of a page of so many rows; 0 is the default.

    A page that lies before a row is read from its end. Where one read isn't enough, its beginning
    is looked for part by part, and the parts are dropped; they are read again when they are sent.
    """
    part = await read(token, size)
    size = part.page_size
    if not part.backward:
        return Begun(part, size - part.rows if part.next_page_token else 0, size)
    rows = part.rows
    while rows < size and part.previous_page_token:
        before = await read(part.previous_page_token, _next_rows(part, size - rows))
        if not before.rows:  # deleted meanwhile
            part = part._replace(previous_page_token="")
            break
        rows += before.rows
        part = before
    return Begun(part, rows - part.rows, size)


def _next_rows(part: Page, wanted: int) -> int:
    """Return how many rows to read next: some more than there were, as they may be as large.

    A store looks at all rows that it is asked for, and not only at those that fit into a read.
    """
    return min(wanted, 2 * part.rows)


async def send(
    stream: JsonStream,
    renderings: JsonCache,
    read: Read,
    begun: Begun,
    end: Callable[[Page, Page], bytes],
) -> None:
    """Send a page while it is read; `end` makes what follows the rows, of its first and last part.

    An error on the way leaves the answer without its end, which the client notices.
    """
    part, following, _ = begun
    unsent, separator = bytearray(LIST_BEGIN), b""
    while True:
        for row in renderings.each(part.frames):
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
    await stream.send(bytes(unsent) + end(begun.first, part), is_last=True)
