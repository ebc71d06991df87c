"""Recording Interactions: one, a batch, or a stream of batches."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple

from interaction_svc.admission.fairness import ROWS_PER_YIELD, ReadPriority
from interaction_svc.app.consistency import current_token
from interaction_svc.app.store_calls import store_call
from interaction_svc.domain.errors import (
    InvalidField,
    OwnerMismatch,
    PermissionDenied,
    ServiceError,
)
from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.principals import Permission, Principal
from interaction_svc.domain.timestamps import now_us
from interaction_svc.domain.validation import normalize
from interaction_svc.store import Row, Store, row_of
from interaction_svc.telemetry.logs import audit
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2 import RecordFailure, RecordInteractionsResponse

MAX_BATCH = 1000
"""Interactions in one batch, which is one transaction."""
MAX_FAILURES = 100
"""Refused Interactions of a stream that its response describes."""

Result = Outcome | ServiceError
"""The result for one Interaction of a batch."""
Batch = Iterable[pb.Interaction | ServiceError]
"""The Interactions of one request. One that could not be parsed is replaced by its error."""


class RecordResult(NamedTuple):
    """The result of recording one Interaction."""

    outcome: Outcome
    frame: bytes | None
    """The stored Interaction, encoded; None if it is not stored, or the caller may not read it."""
    consistency_token: str | None


class StreamResult(NamedTuple):
    """The result of recording a stream."""

    response: RecordInteractionsResponse
    consistency_token: str | None


class PreparedBatch(NamedTuple):
    """Interactions that are checked and ready to be stored."""

    rows: list[Row]
    """The rows of the valid Interactions."""
    results: list[Result]
    """One result for each Interaction; a placeholder for a valid one until `commit`."""
    places: list[int]
    """The index in `results` of each row."""

    @classmethod
    def of(cls, rows: list[Row]) -> "PreparedBatch":
        """Return a batch that has only valid rows."""
        return cls(rows, [Outcome.UNCHANGED] * len(rows), list(range(len(rows))))


class Ingest:
    """Records Interactions.

    Every method that writes may raise Unavailable, Overloaded and StoreFull. The transports check
    the caller's permission before they parse a request.
    """

    def __init__(self, store: Store, reads: ReadPriority | None = None) -> None:
        """Record into `store`. `prepare` yields to the reads that `reads` is notified of."""
        self._store = store
        self._reads = reads or ReadPriority()

    async def record(self, principal: Principal, interaction: pb.Interaction) -> RecordResult:
        """Record one Interaction, and normalize it in place.

        Raises InvalidField, OwnerMismatch, PermissionDenied.
        """
        try:
            row = prepare_row(principal, interaction, make_sid=True)
        except InvalidField as error:
            raise InvalidField(f"interaction.{error.field}", error.problem) from error
        with store_call("record"):
            ((outcome, frame),) = await self._store.record([row])
        if outcome is Outcome.OWNER_MISMATCH:
            raise OwnerMismatch(interaction.sid)
        if outcome is Outcome.STALE and Permission.READ not in principal.rights:
            frame = None  # the stored version has data that the caller did not send
        return RecordResult(outcome, frame, await current_token(self._store))

    async def prepare(self, principal: Principal, interactions: Batch) -> PreparedBatch:
        """Check Interactions, normalize them in place, and make rows of the valid ones.

        Yields to reads after every ROWS_PER_YIELD Interactions. An error in `interactions` becomes
        the result at its index.
        """
        at_us = now_us()
        batch = PreparedBatch([], [], [])
        for place, interaction in enumerate(interactions):
            if place and not place % ROWS_PER_YIELD:
                await self._reads.yield_to_reads(place // ROWS_PER_YIELD)
            try:
                if isinstance(interaction, ServiceError):
                    raise interaction
                row = prepare_row(principal, interaction, at_us=at_us)
            except ServiceError as error:
                batch.results.append(error)
            else:
                batch.results.append(Outcome.UNCHANGED)
                batch.rows.append(row)
                batch.places.append(place)
        if refused := sum(isinstance(result, PermissionDenied) for result in batch.results):
            audit("refused", reason=PermissionDenied.reason_name(), count=refused)
        return batch

    async def commit(self, batch: PreparedBatch) -> list[Result]:
        """Record a batch in one transaction, and return the result for each Interaction."""
        rows, results, places = batch
        if rows:
            with store_call("record"):
                recorded = await self._store.record(rows)
            for place, row, (outcome, _) in zip(places, rows, recorded, strict=True):
                is_mismatch = outcome is Outcome.OWNER_MISMATCH
                results[place] = OwnerMismatch(row.sid) if is_mismatch else outcome
        return results

    async def record_stream(
        self, principal: Principal, batches: AsyncIterator[Batch]
    ) -> StreamResult:
        """Record batches in their order, each in one transaction.

        While a batch is written, the next one is read and prepared; no more than these two are in
        memory. When a batch fails, the batches before it are written, and then its error is raised.
        The `details` of the error have the counts of what was recorded.
        """
        tally = _Tally()
        try:
            await self._record_batches(principal, batches, tally)
        except ServiceError as error:
            error.details = (tally.counts(),)
            raise
        return StreamResult(tally.response(), await current_token(self._store))

    async def _record_batches(
        self, principal: Principal, batches: AsyncIterator[Batch], tally: "_Tally"
    ) -> None:
        writing: asyncio.Task[list[Result]] | None = None
        try:
            async for interactions in batches:
                batch = await self.prepare(principal, interactions)
                if writing is not None:
                    tally.add(await writing)
                writing = asyncio.create_task(self.commit(batch))
            if writing is not None:
                tally.add(await writing)
        except ServiceError as error:
            # If reading or preparing a batch failed, wait for the previous write and count it.
            if writing is not None and not (writing.done() and writing.exception() is error):
                tally.add(await writing)
            raise
        finally:
            if writing is not None:
                _abandon(writing)


def check_count(count: int) -> None:
    """Raise InvalidField if a batch would have more than MAX_BATCH Interactions."""
    if count > MAX_BATCH:
        raise InvalidField("interactions", f"must be at most {MAX_BATCH:,} in one request")


def prepare_row(
    principal: Principal,
    interaction: pb.Interaction,
    *,
    at_us: int | None = None,
    make_sid: bool = False,
) -> Row:
    """Check an Interaction, normalize it in place, and return its row.

    `at_us` is the current time in microseconds since 1970. `make_sid` is as in `normalize`. Raises
    InvalidField, PermissionDenied.
    """
    normalize(interaction, now_us=now_us() if at_us is None else at_us, make_sid=make_sid)
    if principal.account_sid not in (None, interaction.account_sid):
        raise PermissionDenied("The credentials are of another account than the Interaction")
    return row_of(interaction)


def _abandon(writing: asyncio.Task[list[Result]]) -> None:
    """Cancel a write that still waits in the queue. Its caller no longer needs the result."""
    if not writing.cancel() and not writing.cancelled():
        writing.exception()  # retrieved, so that asyncio does not log it


class _Tally:
    """Counts the results of a stream, and describes the first MAX_FAILURES failures."""

    def __init__(self) -> None:
        self._counts: Counter[Outcome] = Counter()
        self._failures: list[RecordFailure] = []
        self._failed = 0
        self._index = 0

    def add(self, results: Sequence[Result]) -> None:
        """Count the results of the next batch."""
        for index, result in enumerate(results, self._index):
            if isinstance(result, Outcome):
                self._counts[result] += 1
            else:
                self._failed += 1
                if len(self._failures) < MAX_FAILURES:
                    self._failures.append(_failure(index, result))
        self._index += len(results)

    def response(self) -> RecordInteractionsResponse:
        """Return the response of the stream."""
        response = self.counts()
        response.failures.extend(self._failures)
        return response

    def counts(self) -> RecordInteractionsResponse:
        """Return the response without the failures, which may be too large for trailers."""
        return RecordInteractionsResponse(
            created=self._counts[Outcome.CREATED],
            updated=self._counts[Outcome.UPDATED],
            unchanged=self._counts[Outcome.UNCHANGED],
            stale=self._counts[Outcome.STALE],
            deleted=self._counts[Outcome.DELETED],
            failed=self._failed,
        )


def _failure(index: int, error: ServiceError) -> RecordFailure:
    field, message = "", error.message
    if isinstance(error, InvalidField):
        field, message = error.field, error.problem
    return RecordFailure(index=index, reason=error.reason, field=field, message=message)
