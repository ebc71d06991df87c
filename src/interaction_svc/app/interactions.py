"""The application: what both transports and the command line call.

It checks arguments, applies the rules, and turns the store's errors into those of callers.
Interactions go in as messages and come out as frames (see interaction_svc.store.rows).
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from interaction_svc.admission.fairness import ROWS_PER_YIELD, ReadPriority
from interaction_svc.app.consistency import decode_token, encode_token
from interaction_svc.app.page_tokens import PageTokens
from interaction_svc.app.store_calls import store_call
from interaction_svc.domain.errors import (
    InteractionNotFound,
    InvalidField,
    OwnerMismatch,
    PermissionDenied,
    ServiceError,
)
from interaction_svc.domain.interactions import Filter, InteractionKey, Outcome, Scope
from interaction_svc.domain.paging import Cursor, resolve_page_size
from interaction_svc.domain.principals import Permission, Principal
from interaction_svc.domain.sids import Sid, canonical_sid
from interaction_svc.domain.validation import check_enum, check_sid, check_time, normalize
from interaction_svc.store import PageQuery, Recorded, Row, Store, StoredPage, row_of
from interaction_svc.telemetry import metrics
from interaction_svc.telemetry.logs import audit
from interaction_svc.telemetry.metric_buffer import observe
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.interaction_service_pb2 import ListInteractionsRequest

MAX_PAGE_BYTES = 4 * 1024 * 1024 - 64 * 1024
"""What gRPC clients accept by default, less room for tokens and framing."""
MAX_BATCH = 1000
_ORDERS = frozenset(ListInteractionsRequest.Order.values())
_NO_FILTER = Filter()

Result = Outcome | ServiceError
"""What became of one Interaction of many."""


class Page(NamedTuple):
    """A page of Interactions; an empty token says that there is no page that way."""

    frames: bytes
    """Their frames, joined: those bytes are a ListInteractionsResponse without its tokens."""
    rows: int
    """How many."""
    next_page_token: str
    previous_page_token: str
    backward: bool = False
    """Whether it was read from its end: it is the page before a row."""


class PreparedBatch(NamedTuple):
    """Interactions on their way into the store."""

    results: list[Result]
    """One for each: the error of a bad one, and for a good one what the store will say."""
    rows: list[Row]
    """Those of the good ones."""
    places: list[int]
    """Where the results of the rows go."""


class Interactions:
    """The operations on Interactions.

    Every one may raise Unavailable, and the ones that write Overloaded and StoreFull. Whether the
    caller has the right is checked by the transports, before they read the request.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._courtesy = ReadPriority()
        self._deleting: set[asyncio.Task[bool]] = set()

    async def get(
        self,
        principal: Principal,
        key: InteractionKey,
        *,
        account_sid: str = "",
        consistency: str | None = None,
    ) -> bytes:
        """Return the frame of an Interaction, as it is after the write that had this token.

        `account_sid` is as in `_scope`. Raises InvalidField, InvalidConsistencyToken,
        InteractionNotFound, PermissionDenied, AmbiguousAccount, DataLoss.
        """
        key = _checked_key(key)
        scope = _scope(principal, account_sid)
        self._courtesy.note_read()
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
        consistency: str | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> Page:
        """Return a page of a Session's Interactions, as it is after the write that had this token.

        It ends before it has more than `max_bytes`, but has at least one row if there is one.
        Raises InvalidField and its kinds, PermissionDenied.
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
            # As bytes of the API, which stay the same from version to version.
            request.filter.SerializeToString(deterministic=True) if has_filter else b"",
        )
        edge = tokens.decode(request.page_token) if request.page_token else None
        query = PageQuery(
            service_sid=service_sid,
            session_sid=session_sid,
            limit=limit,
            max_bytes=max_bytes,
            filter=_filter_of(request.filter) if has_filter else _NO_FILTER,
            descending=order == ListInteractionsRequest.ORDER_CREATED_DESC,
            edge=edge,
        )
        self._courtesy.note_read()
        store = (
            self._store if consistency is None else self._store.at_least(decode_token(consistency))
        )
        with store_call("page"):
            page = await store.page(scope, query)
        observe(metrics.page_interactions, page.rows)
        following, preceding = _adjacent_cursors(page, edge)
        return Page(
            page.frames,
            page.rows,
            tokens.encode(following) if following else "",
            tokens.encode(preceding) if preceding else "",
            backward=edge is not None and edge.backward,
        )

    async def consistency(self) -> str | None:
        """Give the token of all that has been written by now; None: every read sees all of it."""
        revision = await self._store.current_revision()
        return None if revision is None else encode_token(revision)

    async def delete(
        self,
        principal: Principal,
        key: InteractionKey,
        *,
        account_sid: str = "",
        allow_missing: bool = False,
    ) -> None:
        """Delete an Interaction for good.

        `account_sid` is as in `_scope`. Raises InvalidField, InteractionNotFound, PermissionDenied,
        AmbiguousAccount.
        """
        key = _checked_key(key)
        scope = _scope(principal, account_sid)
        # Shielded, so that what is deleted is audited even if its caller has gone meanwhile.
        deleting = asyncio.create_task(self._delete(scope, key))
        self._deleting.add(deleting)
        deleting.add_done_callback(self._deleted)
        if not await asyncio.shield(deleting) and not allow_missing:
            raise InteractionNotFound(key.sid)

    async def _delete(self, scope: Scope, key: InteractionKey) -> bool:
        with store_call("delete"):
            found = await self._store.delete(scope, key, _now_us())
        if found:
            metrics.rows_erased.labels("call").inc()
            audit("delete", **key._asdict())
        return found

    def _deleted(self, deleting: asyncio.Task[bool]) -> None:
        self._deleting.discard(deleting)
        if not deleting.cancelled():
            deleting.exception()  # whoever still waits has it; nobody else needs to

    async def record(self, principal: Principal, interaction: pb.Interaction) -> Recorded:
        """Record one Interaction. Raises InvalidField, OwnerMismatch, PermissionDenied.

        It is left in its stored spelling. The outcome is never OWNER_MISMATCH.
        """
        try:
            normalize(interaction, now_us=_now_us(), make_sid=True)
        except InvalidField as error:
            raise InvalidField(f"interaction.{error.field}", error.problem) from error
        _check_owner(principal, interaction)
        with store_call("record"):
            (recorded,) = await self._store.record([row_of(interaction)])
        if recorded.outcome is Outcome.OWNER_MISMATCH:
            raise OwnerMismatch(interaction.sid)
        if recorded.outcome is Outcome.STALE and Permission.READ not in principal.rights:
            return recorded._replace(frame=None)  # what is stored is not what they brought
        return recorded

    async def record_many(
        self, principal: Principal, interactions: Sequence[pb.Interaction]
    ) -> list[Result]:
        """Record up to MAX_BATCH Interactions in one transaction; say what became of each.

        A bad one gets its error in the result, and the others are recorded all the same. They are
        left in their stored spelling. Raises InvalidField if there are too many.
        """
        check_count(len(interactions))
        return await self.commit(await self.prepare(principal, interactions))

    async def prepare(
        self, principal: Principal, interactions: Iterable[pb.Interaction | ServiceError]
    ) -> PreparedBatch:
        """Check Interactions, and make rows of the good ones; other calls go on meanwhile.

        An error in the place of an Interaction that couldn't be read becomes its result.
        """
        now_us = _now_us()
        results: list[Result] = []
        rows: list[Row] = []
        places: list[int] = []
        for place, interaction in enumerate(interactions):
            if place and not place % ROWS_PER_YIELD:
                await self._courtesy.yield_to_reads(place // ROWS_PER_YIELD)
            try:
                if isinstance(interaction, ServiceError):
                    raise interaction
                normalize(interaction, now_us=now_us)
                _check_owner(principal, interaction)
            except ServiceError as error:
                results.append(error)
            else:
                results.append(Outcome.UNCHANGED)  # until the store has spoken
                rows.append(row_of(interaction))
                places.append(place)
        if refused := sum(isinstance(result, PermissionDenied) for result in results):
            audit("refused", reason=PermissionDenied.reason_name(), count=refused)
        return PreparedBatch(results, rows, places)

    async def commit(self, checked: PreparedBatch) -> list[Result]:
        """Record what has been checked, in one transaction; say what became of each."""
        results, rows, places = checked
        if rows:
            with store_call("record"):
                recorded = await self._store.record(rows)
            for place, row, (outcome, _) in zip(places, rows, recorded, strict=True):
                mismatch = outcome is Outcome.OWNER_MISMATCH
                results[place] = OwnerMismatch(row.sid) if mismatch else outcome
        return results


def check_count(count: int) -> None:
    """Raise InvalidField if these are too many Interactions for one batch."""
    if count > MAX_BATCH:
        raise InvalidField("interactions", f"must be at most {MAX_BATCH:,} in one request")


def _adjacent_cursors(page: StoredPage, edge: Cursor | None) -> tuple[Cursor | None, Cursor | None]:
    """Give where the page after a page begins, and the page before it; None: there is none.

    In the direction that was read it is known whether there is more; the other way lies the page
    that the caller came from. An empty page leads back only: one of the vendor's SDKs stops at an
    empty page, whatever its next link says.
    """
    backward = edge is not None and edge.backward
    if page.first is None or page.last is None:
        came_from = edge if edge is not None and not backward else None
        return None, came_from and Cursor(came_from.position, backward=True, inclusive=True)
    following = Cursor(page.last) if backward or page.more else None
    preceding = Cursor(page.first, backward=True) if (page.more if backward else edge) else None
    return following, preceding


def _checked_key(key: InteractionKey) -> InteractionKey:
    """Return a key in its stored spelling. Raises InvalidField."""
    check_sid(Sid.SERVICE, "service_sid", key.service_sid)
    check_sid(Sid.SESSION, "session_sid", key.session_sid)
    check_sid(Sid.INTERACTION, "sid", key.sid)
    return InteractionKey(*map(canonical_sid, key))


def _scope(principal: Principal, account_sid: str) -> Scope:
    """Return whose Interactions a call reaches: the caller's account's, or those it names.

    A caller of all accounts may name one; without one it reaches all. Raises InvalidField,
    PermissionDenied.
    """
    if not account_sid:
        return Scope(principal.account_sid)
    check_sid(Sid.ACCOUNT, "account_sid", account_sid)
    account_sid = canonical_sid(account_sid)
    if principal.account_sid not in (None, account_sid):
        raise PermissionDenied("The credentials are of another account than the call names")
    return Scope(account_sid)


def _check_owner(principal: Principal, record: pb.Interaction) -> None:
    if principal.account_sid not in (None, record.account_sid):
        raise PermissionDenied("The credentials are of another account than the Interaction")


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
            created_from_us += 1  # rows hold whole microseconds: the next one is the first after
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


def _now_us() -> int:
    return time.time_ns() // 1000
