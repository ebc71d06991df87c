"""The servicers: bytes in, one call on the application, bytes out.

Requests are parsed here and not by grpc, which doesn't say that bad bytes are the caller's fault.
Responses are bytes already: the stored frames, and where a response has further fields, those
appended, for protobuf reads joined messages as one.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable

from interaction_svc.app.interactions import Interactions, Result
from interaction_svc.domain.errors import InvalidField, ServiceError
from interaction_svc.domain.interactions import InteractionKey, Outcome
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.rpc.requests import interactions_of, parsed, parsed_record
from interaction_svc.v1.ingest_service_pb2 import (
    RecordFailure,
    RecordInteractionResponse,
    RecordInteractionsResponse,
    RecordOutcome,
)
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    GetInteractionRequest,
    ListInteractionsRequest,
    ListInteractionsResponse,
)

MAX_FAILURES = 100
"""How many refused Interactions of a stream are described."""


class InteractionServicer:
    """interaction_svc.v1.InteractionService."""

    def __init__(self, interactions: Interactions) -> None:
        self._interactions = interactions

    async def get_interaction(self, request: bytes, _: object) -> bytes:
        """GetInteraction: the stored frame is the response."""
        wanted = parsed(GetInteractionRequest, request)
        key = InteractionKey(wanted.service_sid, wanted.session_sid, wanted.sid)
        call = current_request()
        return await self._interactions.get(
            call.principal, key, account_sid=wanted.account_sid, consistency=call.consistency
        )

    async def list_interactions(self, request: bytes, _: object) -> bytes:
        """ListInteractions: the stored frames, then the tokens."""
        wanted = parsed(ListInteractionsRequest, request)
        call = current_request()
        page = await self._interactions.page(call.principal, wanted, consistency=call.consistency)
        tokens = ListInteractionsResponse(
            next_page_token=page.next_page_token, previous_page_token=page.previous_page_token
        )
        return page.frames + tokens.SerializeToString()

    async def delete_interaction(self, request: bytes, _: object) -> bytes:
        """DeleteInteraction: the response is empty."""
        wanted = parsed(DeleteInteractionRequest, request)
        key = InteractionKey(wanted.service_sid, wanted.session_sid, wanted.sid)
        await self._interactions.delete(
            current_request().principal,
            key,
            account_sid=wanted.account_sid,
            allow_missing=wanted.allow_missing,
        )
        await _note_written(self._interactions)
        return b""


class IngestServicer:
    """interaction_svc.v1.IngestService."""

    def __init__(self, interactions: Interactions) -> None:
        self._interactions = interactions

    async def record_interaction(self, request: bytes, _: object) -> bytes:
        """RecordInteraction: the frame that is stored now, then the outcome."""
        given = parsed_record(request)
        if not given.HasField("interaction"):
            raise InvalidField("interaction", "is required")
        outcome, frame = await self._interactions.record(
            current_request().principal, given.interaction
        )
        await _note_written(self._interactions)
        rest = RecordInteractionResponse(outcome=RecordOutcome.ValueType(outcome))
        return (frame or b"") + rest.SerializeToString()

    async def record_interactions(self, requests: AsyncIterator[bytes], _: object) -> bytes:
        """RecordInteractions: the answer follows the last request's commit.

        An error that ends the stream has the counts of what was handled before it in its details.
        """
        tally = _Tally()
        try:
            await self._record_each(requests, tally)
        except ServiceError as error:
            error.details = (tally.counts(),)
            raise
        await _note_written(self._interactions)
        return tally.response().SerializeToString()

    async def _record_each(self, requests: AsyncIterator[bytes], tally: "_Tally") -> None:
        """Record requests in their order: while one is written, the next is read and checked.

        No more than these two are in memory.
        """
        principal = current_request().principal
        writing: asyncio.Task[list[Result]] | None = None
        try:
            async for request in requests:
                batch = await self._interactions.prepare(principal, interactions_of(request))
                if writing is not None:
                    tally.add(await writing)
                writing = asyncio.create_task(self._interactions.commit(batch))
            if writing is not None:
                tally.add(await writing)
        except ServiceError as error:
            # What precedes the failure is written, or has failed before it.
            if writing is not None and not (writing.done() and writing.exception() is error):
                tally.add(await writing)
            raise
        finally:
            if writing is not None:
                _give_up(writing)


async def _note_written(interactions: Interactions) -> None:
    """Have the transport answer the consistency token of what was written, if there is one."""
    current_request().written = await interactions.consistency()


def _give_up(writing: asyncio.Task[list[Result]]) -> None:
    """Take a write whose caller is gone out of the queue, if it waits there yet."""
    if not writing.cancel() and not writing.cancelled():
        writing.exception()  # nobody is left to hear of it


class _Tally:
    """Counts the outcomes of a stream, and describes the first of its failures."""

    def __init__(self) -> None:
        self._counts: Counter[Outcome] = Counter()
        self._failures: list[RecordFailure] = []
        self._failed = 0
        self._index = 0

    def add(self, results: Iterable[Result]) -> None:
        """Count the results of its next request."""
        for index, result in enumerate(results, self._index):
            if isinstance(result, Outcome):
                self._counts[result] += 1
            else:
                self._failed += 1
                if len(self._failures) < MAX_FAILURES:
                    self._failures.append(_failure(index, result))
            self._index += 1

    def response(self) -> RecordInteractionsResponse:
        """Return the answer."""
        answer = self.counts()
        answer.failures.extend(self._failures)
        return answer

    def counts(self) -> RecordInteractionsResponse:
        """Return the answer without the failures, which may be too large for trailers."""
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
