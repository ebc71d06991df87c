"""interaction_svc.v1.IngestService, independent of the engine that serves it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable

from interaction_svc.app.interactions import Interactions, Result
from interaction_svc.domain.errors import InvalidField, ServiceError
from interaction_svc.domain.interactions import Outcome
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.rpc.requests import parse_record, split_interactions
from interaction_svc.v1.ingest_service_pb2 import (
    RecordFailure,
    RecordInteractionResponse,
    RecordInteractionsResponse,
    RecordOutcome,
)

MAX_FAILURES = 100
"""The number of refused Interactions of a stream that the response describes."""


class IngestServicer:
    """interaction_svc.v1.IngestService."""

    def __init__(self, interactions: Interactions) -> None:
        self._interactions = interactions

    async def record_interaction(self, request: bytes) -> bytes:
        """Serve RecordInteraction. The response is the stored Interaction, then the outcome."""
        given = parse_record(request)
        if not given.HasField("interaction"):
            raise InvalidField("interaction", "is required")
        call = current_request()
        outcome, encoded = await self._interactions.record(call.principal, given.interaction)
        call.written = await self._interactions.consistency()
        rest = RecordInteractionResponse(outcome=RecordOutcome.ValueType(outcome))
        return (encoded or b"") + rest.SerializeToString()

    async def record_interactions(self, requests: AsyncIterator[bytes]) -> bytes:
        """Serve RecordInteractions. The response follows the commit of the last request.

        The details of an error that ends the stream have the counts of the requests before it.
        """
        call = current_request()
        tally = _Tally()
        try:
            await self._record_each(requests, tally)
        except ServiceError as error:
            error.details = (tally.counts(),)
            raise
        call.written = await self._interactions.consistency()
        return tally.response().SerializeToString()

    async def _record_each(self, requests: AsyncIterator[bytes], tally: "_Tally") -> None:
        """Record requests in order. While one is written, the next is received and checked.

        No more than these two are in memory.
        """
        principal = current_request().principal
        writing: asyncio.Task[list[Result]] | None = None
        try:
            async for request in requests:
                batch = await self._interactions.prepare(principal, split_interactions(request))
                if writing is not None:
                    tally.add(await writing)
                writing = asyncio.create_task(self._interactions.commit(batch))
            if writing is not None:
                tally.add(await writing)
        except ServiceError as error:
            # The request before the failed one is written, unless it is the one that failed.
            if writing is not None and not (writing.done() and writing.exception() is error):
                tally.add(await writing)
            raise
        finally:
            if writing is not None:
                _cancel(writing)


def _cancel(writing: asyncio.Task[list[Result]]) -> None:
    """Remove the write of a caller that is gone from the queue, if it still waits there."""
    if not writing.cancel() and not writing.cancelled():
        writing.exception()  # so that asyncio does not log it as never retrieved


class _Tally:
    """The outcomes of a stream, and the first MAX_FAILURES of its failures."""

    def __init__(self) -> None:
        self._counts: Counter[Outcome] = Counter()
        self._failures: list[RecordFailure] = []
        self._failed = 0
        self._index = 0

    def add(self, results: Iterable[Result]) -> None:
        """Count the results of the next request."""
        for index, result in enumerate(results, self._index):
            if isinstance(result, Outcome):
                self._counts[result] += 1
            else:
                self._failed += 1
                if len(self._failures) < MAX_FAILURES:
                    self._failures.append(_failure(index, result))
            self._index += 1

    def response(self) -> RecordInteractionsResponse:
        """Return the response."""
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
