"""Reading and deleting Interactions.

Stored Interactions are returned encoded, as bytes of the response (see interaction_svc.store.rows).
"""

import asyncio
from typing import NamedTuple

from interaction_svc.admission.fairness import ReadPriority
from interaction_svc.app.consistency import current_token, decode_token
from interaction_svc.app.page_tokens import PageTokens
from interaction_svc.app.store_calls import store_call
from interaction_svc.domain.errors import InteractionNotFound, InvalidField, PermissionDenied
from interaction_svc.domain.interactions import Filter, InteractionKey, Scope
from interaction_svc.domain.paging import Cursor, resolve_page_size
from interaction_svc.domain.principals import Principal
from interaction_svc.domain.sids import Sid, canonical_sid
from interaction_svc.domain.timestamps import now_us
from interaction_svc.domain.validation import check_enum, check_sid, check_time
from interaction_svc.store import (
    PageQuery,
    Store,
    StoredPage,
)
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.logs import audit
from interaction_svc.telemetry.metric_buffer import observe
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.interaction_service_pb2 import ListInteractionsRequest

_ORDERS = frozenset(ListInteractionsRequest.Order.values())
_NO_FILTER = Filter()


class Page(NamedTuple):
    """A page of Interactions. An empty token means that there is no page in that direction."""

    frames: bytes
    """The encoded Interactions, joined: a ListInteractionsResponse without its tokens."""
    rows: int
    """The number of Interactions."""
    page_size: int
    """The requested size, limited to the maximum; the default if none was requested."""
    next_page_token: str
    previous_page_token: str
    backward: bool = False
    """True if the page was requested by a `previous_page_token`."""


class Interactions:
    """Reads and deletes Interactions.

    Every method may raise Unavailable, and `delete` Overloaded and StoreFull. The transports check
    the caller's permission before they parse a request.
    """

    def __init__(self, store: Store, reads: ReadPriority | None = None) -> None:
        """Use `store`, and notify `reads` of each read."""
        self._store = store
        self._reads = reads or ReadPriority()
        self._deleting: set[asyncio.Task[bool]] = set()

    async def get(
        self,
        principal: Principal,
        key: InteractionKey,
        *,
        account_sid: str = "",
        consistency: str | None = None,
    ) -> bytes:
        """Return an encoded Interaction. The read sees the write that returned `consistency`.

        `account_sid` is as in `_scope`. Raises InvalidField, InvalidConsistencyToken,
        InteractionNotFound, PermissionDenied, AmbiguousAccount, DataLoss.
        """
        key = _checked_key(key)
        scope = _scope(principal, account_sid)
        self._reads.note_read()
        store = (
            self._store if consistency is None else self._store.at_least(decode_token(consistency))
        )
        with store_call("get"):
            frame = await store.get(scope, key)
        if frame is None:
            raise InteractionNotFound(key.sid)
        return frame

    async def page(
        self,
        principal: Principal,
        request: ListInteractionsRequest,
        *,
        max_bytes: int,
        consistency: str | None = None,
    ) -> Page:
        """Return a page of a Session's Interactions.

        The read sees the write that returned `consistency`. A page has at most `max_bytes`, unless
        its only Interaction is larger. Raises InvalidField and its subclasses, PermissionDenied.
        """
        check_sid(Sid.SERVICE, "service_sid", request.service_sid)
        check_sid(Sid.SESSION, "session_sid", request.session_sid)
        service_sid = canonical_sid(request.service_sid)
        session_sid = canonical_sid(request.session_sid)
        scope = _scope(principal, request.account_sid)
        limit = resolve_page_size(request.page_size)
        order = request.order or ListInteractionsRequest.ORDER_CREATED_ASC
        if order not in _ORDERS:
            raise InvalidField("order", f"{order} is not a value of Order")
        has_filter = request.HasField("filter")
        tokens = PageTokens(
            service_sid,
            session_sid,
            scope.account_sid or "",
            order,
            # The token has a digest of these bytes, which are the same in every version.
            request.filter.SerializeToString(deterministic=True) if has_filter else b"",
        )
        cursor = tokens.decode(request.page_token) if request.page_token else None
        query = PageQuery(
            service_sid=service_sid,
            session_sid=session_sid,
            limit=limit,
            max_bytes=max_bytes,
            filter=_filter_of(request.filter) if has_filter else _NO_FILTER,
            descending=order == ListInteractionsRequest.ORDER_CREATED_DESC,
            edge=cursor,
        )
        self._reads.note_read()
        store = (
            self._store if consistency is None else self._store.at_least(decode_token(consistency))
        )
        with store_call("page"):
            page = await store.page(scope, query)
        observe(metrics.page_interactions, page.rows)
        following, preceding = _adjacent_cursors(page, cursor)
        return Page(
            page.frames,
            page.rows,
            limit,
            tokens.encode(following) if following else "",
            tokens.encode(preceding) if preceding else "",
            backward=cursor is not None and cursor.backward,
        )

    async def delete(
        self,
        principal: Principal,
        key: InteractionKey,
        *,
        account_sid: str = "",
        allow_missing: bool = False,
    ) -> str | None:
        """Delete an Interaction permanently, and return a token as `current_token` does.

        `account_sid` is as in `_scope`. Raises InvalidField, PermissionDenied, AmbiguousAccount;
        InteractionNotFound unless `allow_missing`.
        """
        key = _checked_key(key)
        scope = _scope(principal, account_sid)
        # Shielded, so that a deletion is audited even if its caller is gone.
        deleting = asyncio.create_task(self._delete(scope, key))
        self._deleting.add(deleting)
        deleting.add_done_callback(self._deleted)
        if not await asyncio.shield(deleting) and not allow_missing:
            raise InteractionNotFound(key.sid)
        return await current_token(self._store)

    async def _delete(self, scope: Scope, key: InteractionKey) -> bool:
        with store_call("delete"):
            found = await self._store.delete(scope, key, now_us())
        if found:
            metrics.rows_erased.labels("call").inc()
            audit("delete", **key._asdict())
        return found

    def _deleted(self, deleting: asyncio.Task[bool]) -> None:
        self._deleting.discard(deleting)
        if not deleting.cancelled():
            deleting.exception()  # retrieved, so that asyncio does not log it


def _adjacent_cursors(
    page: StoredPage, cursor: Cursor | None
) -> tuple[Cursor | None, Cursor | None]:
    """Return the cursors of the next page and of the previous page; None where there is no page.

    `page` was read from `cursor`. `page.more` is True if there are more rows in the direction of
    the read. In the other direction there is a page if `cursor` is not None. An empty page has only
    a previous page: one of the vendor's SDKs stops at an empty page, even if it has a next link.
    """
    backward = cursor is not None and cursor.backward
    if page.first is None or page.last is None:
        came_from = cursor if cursor is not None and not backward else None
        return None, came_from and Cursor(came_from.position, backward=True, inclusive=True)
    following = Cursor(page.last) if backward or page.more else None
    preceding = Cursor(page.first, backward=True) if (page.more if backward else cursor) else None
    return following, preceding


def _checked_key(key: InteractionKey) -> InteractionKey:
    """Return a key with canonical SIDs. Raises InvalidField."""
    check_sid(Sid.SERVICE, "service_sid", key.service_sid)
    check_sid(Sid.SESSION, "session_sid", key.session_sid)
    check_sid(Sid.INTERACTION, "sid", key.sid)
    return InteractionKey(*map(canonical_sid, key))


def _scope(principal: Principal, account_sid: str) -> Scope:
    """Return the accounts in which a request reads or deletes.

    The scope is the caller's account. A caller with access to all accounts may select one by
    `account_sid`; if that is empty, the scope is all accounts. Raises InvalidField,
    PermissionDenied.
    """
    if not account_sid:
        return Scope(principal.account_sid)
    check_sid(Sid.ACCOUNT, "account_sid", account_sid)
    account_sid = canonical_sid(account_sid)
    if principal.account_sid not in (None, account_sid):
        raise PermissionDenied("The credentials are of another account than the call names")
    return Scope(account_sid)


def _filter_of(given: ListInteractionsRequest.Filter) -> Filter:
    check_enum(pb.InteractionType, "filter.type", given.type)
    check_enum(pb.ResourceStatus, "filter.resource_status", given.resource_status)
    if given.participant_sid:
        check_sid(Sid.PARTICIPANT, "filter.participant_sid", given.participant_sid)
    if given.resource_sid:
        check_sid(Sid.RESOURCE, "filter.resource_sid", given.resource_sid)
    created_from_us = created_before_us = None
    if given.HasField("created_at_or_after"):
        created_from_us = check_time("filter.created_at_or_after", given.created_at_or_after)
        if given.created_at_or_after.nanos % 1000:
            created_from_us += 1  # rows have whole microseconds: round the bound up
    if given.HasField("created_before"):
        created_before_us = check_time("filter.created_before", given.created_before)
        if given.created_before.nanos % 1000:
            created_before_us += 1
    return Filter(
        type=given.type or None,
        created_from_us=created_from_us,
        created_before_us=created_before_us,
        participant_sid=canonical_sid(given.participant_sid) or None,
        resource_sid=canonical_sid(given.resource_sid) or None,
        resource_status=given.resource_status or None,
    )
