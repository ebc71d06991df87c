"""Pages of a list: their sizes, and where they begin."""

from typing import NamedTuple

from interaction_svc.domain.errors import InvalidField

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


class Position(NamedTuple):
    """A place in the order of a Session: a row's creation in microseconds, its SID, its account.

    With an empty SID it is the place before all rows of that time. The account is empty in a list
    of one account, where it is not needed.
    """

    created_us: int
    sid: str
    account_sid: str = ""


class Cursor(NamedTuple):
    """The start of a page: after a row in the order of the list, or before it if `backward`.

    The row itself belongs to the page only if `inclusive`. It may have been deleted.
    """

    position: Position
    backward: bool = False
    inclusive: bool = False


def resolve_page_size(size: int) -> int:
    """Return the number of rows of a page: 0 is the default, too many is the maximum (AIP-158).

    Raises InvalidField if `size` is negative.
    """
    if size < 0:
        raise InvalidField("page_size", f"must not be negative; 0 means {DEFAULT_PAGE_SIZE}")
    return min(size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE
