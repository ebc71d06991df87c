"""The sizes of pages, and cursors for the start of a page."""

from typing import NamedTuple

from interaction_svc.domain.errors import InvalidField

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


class Position(NamedTuple):
    """A position in a list of a Session: a row's creation in microseconds, its SID, its account.

    An empty SID means the position before all rows of that time. In a list of one account the
    account is empty, because it is not needed.
    """

    created_us: int
    sid: str
    account_sid: str = ""


class Cursor(NamedTuple):
    """The start of a page: after the position in the order of the list, or before if `backward`.

    The row at the position belongs to the page only if `inclusive`. It may have been deleted.
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
