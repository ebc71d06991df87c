"""The query parameters of a list over HTTP.

`PageSize`, `PageToken` and `Page` are Twilio's. `AccountSid`, `Order` and the filters are
extensions of this service. Twilio's SDKs don't limit `PageSize`, so a value above the maximum is
reduced and not rejected. One SDK sends `PageSize` twice: the smallest value is used. Any other
parameter may be repeated only with the same value, because two different values are ambiguous.
"""

from collections.abc import Iterable
from typing import NamedTuple

from interaction_svc.codec.twilio_json import MAX_PAGE, number_of, status_number, type_number
from interaction_svc.domain import timestamps
from interaction_svc.domain.errors import InvalidField
from interaction_svc.domain.paging import MAX_PAGE_SIZE
from interaction_svc.domain.sids import Sid
from interaction_svc.domain.validation import check_sid
from interaction_svc.v1.interaction_pb2 import InteractionType, ResourceStatus
from interaction_svc.v1.interaction_service_pb2 import ListInteractionsRequest

ACCOUNT = "AccountSid"
"""The parameter that selects one account for a caller with access to all accounts."""
_ORDERS = {
    "asc": ListInteractionsRequest.ORDER_CREATED_ASC,
    "desc": ListInteractionsRequest.ORDER_CREATED_DESC,
}
_FIELDS = {
    "service_sid": "ServiceSid",
    "session_sid": "SessionSid",
    "account_sid": ACCOUNT,
    "page_size": "PageSize",
    "page_token": "PageToken",
    "order": "Order",
    "filter.type": "Type",
    "filter.created_at_or_after": "DateCreatedAtOrAfter",
    "filter.created_before": "DateCreatedBefore",
    "filter.participant_sid": "ParticipantSid",
    "filter.resource_sid": "ResourceSid",
    "filter.resource_status": "ResourceStatus",
}
PAGING = ("PageSize", "Page", "PageToken")
CARRIED = (
    ACCOUNT,
    "Order",
    *(name for field, name in _FIELDS.items() if field.startswith("filter.")),
)
"""The parameters that each link repeats, because all pages need the same values."""


class ListParameters(NamedTuple):
    """The parsed parameters of a list: the request, the page number, and the links' parameters."""

    request: ListInteractionsRequest
    page: int
    carried: list[tuple[str, str]]


def read_parameters(
    service_sid: str, session_sid: str, query: Iterable[tuple[str, str]]
) -> ListParameters:
    """Parse the pairs of a query string. Raises InvalidField, which names the parameter."""
    given: dict[str, str] = {}
    page_size: int | None = None
    for name, value in query:
        if name not in PAGING and name not in CARRIED:
            known = ", ".join((*PAGING, *CARRIED))
            raise InvalidField(name[:64], f"is not a parameter of this list; there are {known}")
        if name == "PageSize":
            size = _page_size(value)
            page_size = size if page_size is None else min(page_size, size)
        elif given.setdefault(name, value) != value:
            raise InvalidField(name, "is given twice with different values; give it once")
    if ACCOUNT in given:
        check_sid(Sid.ACCOUNT, ACCOUNT, given[ACCOUNT])
    request = ListInteractionsRequest(
        service_sid=service_sid,
        session_sid=session_sid,
        page_size=page_size or 0,
        page_token=given.get("PageToken", ""),
        account_sid=given.get(ACCOUNT, ""),
    )
    page = _whole_number("Page", given.get("Page", "0"))
    if page > MAX_PAGE:
        raise InvalidField("Page", f"must be at most {MAX_PAGE}")
    if page > 0 and not request.page_token:
        raise InvalidField("Page", "above 0 needs a PageToken; follow the links of the first page")
    _set_conditions(request, given)
    carried = [(name, given[name]) for name in CARRIED if name in given]
    return ListParameters(request, page, carried)


def read_account(query: Iterable[tuple[str, str]]) -> str:
    """Return the account in the query of a GET or DELETE; an empty text if there is none.

    Other parameters are ignored, because the SDKs send some of their own. Raises InvalidField.
    """
    named = {value for name, value in query if name == ACCOUNT}
    if len(named) > 1:
        raise InvalidField(ACCOUNT, "is given twice with different values; give it once")
    account_sid = "".join(named)
    if named:
        check_sid(Sid.ACCOUNT, ACCOUNT, account_sid)
    return account_sid


def _set_conditions(request: ListInteractionsRequest, given: dict[str, str]) -> None:
    if "Order" in given:
        request.order = ListInteractionsRequest.Order.ValueType(
            number_of(given["Order"], "Order", _ORDERS)
        )
    if "Type" in given:
        request.filter.type = InteractionType.ValueType(type_number(given["Type"], "Type"))
    if "ResourceStatus" in given:
        request.filter.resource_status = ResourceStatus.ValueType(
            status_number(given["ResourceStatus"], "ResourceStatus")
        )
    for name, sid in (("ParticipantSid", "participant_sid"), ("ResourceSid", "resource_sid")):
        if name in given:
            if not given[name]:
                raise InvalidField(name, "must not be empty; leave it out for any")
            setattr(request.filter, sid, given[name])
    for name, field in (
        ("DateCreatedAtOrAfter", "created_at_or_after"),
        ("DateCreatedBefore", "created_before"),
    ):
        if name in given:
            try:
                us = timestamps.parse(given[name])
            except ValueError as error:
                raise InvalidField(name, str(error)) from error
            timestamps.set_us(getattr(request.filter, field), us)


def parameter_of(field: str) -> str:
    """Return the query or path parameter for a field of ListInteractionsRequest."""
    if field == "filter":  # the page token was issued for another filter
        return " and ".join(", ".join(CARRIED[2:]).rsplit(", ", 1))
    return _FIELDS.get(field, field)


def _page_size(text: str) -> int:
    size = _whole_number("PageSize", text)
    if size == 0:
        raise InvalidField(
            "PageSize", f"must be 1 or more; above {MAX_PAGE_SIZE} it is {MAX_PAGE_SIZE}"
        )
    return min(size, MAX_PAGE)  # fits into int32; app/ limits it further


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidField(name, "must be a whole number, not negative")
    # Python refuses thousands of digits. 11 digits already exceed every bound.
    return int(text.lstrip("0")[:11] or "0")
