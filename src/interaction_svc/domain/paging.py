"""The sizes of pages, and cursors for the start of a page."""

from typing import NamedTuple

from interaction_svc.domain.errors import InvalidField

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


class Position(NamedTuple):
    """A position in a list of a Session: a row's creation time in microseconds, SID and account.

    An empty SID means the position before all rows of that time. In a list of one account the
    position needs no account, so it is empty.
    """

    created_us: int
    sid: str
    account_sid: str = ""


class Cursor(NamedTuple):
    """The start of a page: after the position in list order, or before it if `backward`.

    The row at the position belongs to the page only if `inclusive`. The row may have been deleted.
    """

    position: Position
    backward: bool = False
    inclusive: bool = False


def resolve_page_size(size: int) -> int:
    """Return the number of rows of a page: 50 for 0, and at most 1,000 (AIP-158).

    Raises InvalidField if `size` is negative.
    """
    if size < 0:
        raise InvalidField("page_size", f"must not be negative; 0 means {DEFAULT_PAGE_SIZE}")
    return min(size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE
