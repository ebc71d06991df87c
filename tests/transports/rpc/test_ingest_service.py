"""Recording over gRPC, through a real client against a served process."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_leg, new_sid
from testing.requests import basic, failure, get_request, record
from testing.stubs import Ingest, Reading

from interaction_svc.domain import timestamps
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.error_reason_pb2 import (
    ERROR_REASON_INVALID_FIELD,
    ERROR_REASON_OWNER_MISMATCH,
)
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    ListInteractionsRequest,
)

pytestmark = pytest.mark.each_engine

Order = ListInteractionsRequest.Order

Code = grpc.StatusCode


async def test_record_returns_its_outcome_and_the_stored_interaction(
    ingest: Ingest, parents: Parents
) -> None:
    first = new_interaction(parents, updated_us=NOON_US + SECOND_US)
    newer = new_interaction(parents, sid=first.sid, updated_us=NOON_US + 2 * SECOND_US)
    for given, outcome, stored in (
        (first, "CREATED", first),
        (first, "UNCHANGED", first),
        (newer, "UPDATED", newer),
        (first, "STALE", newer),
    ):
        response = await ingest.RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=given)
        )
        name = ingest_pb.RecordOutcome.Name(response.outcome)
        assert name == f"RECORD_OUTCOME_{outcome}"
        assert response.interaction == stored


async def test_record_makes_a_missing_sid(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    interaction = new_interaction(parents, sid="")
    interaction.ClearField("create_time")
    interaction.ClearField("update_time")
    request = ingest_pb.RecordInteractionRequest(interaction=interaction)
    made = (await ingest.RecordInteraction(request)).interaction
    assert made.sid.startswith("KI")
    assert timestamps.to_us(made.create_time) > NOON_US
    assert (await reading.GetInteraction(get_request(made))).interaction == made


async def test_bad_records_are_refused_and_named(ingest: Ingest, parents: Parents) -> None:
    bad = new_interaction(parents, inbound=new_leg(participant_sid="KP1"))
    call = ingest.RecordInteraction(ingest_pb.RecordInteractionRequest(interaction=bad))
    code, _, details = await failure(call)
    assert code is Code.INVALID_ARGUMENT
    violations: Any = details["BadRequest"]
    assert violations.field_violations[0].field == "interaction.inbound.participant_sid"
    _, _, details = await failure(ingest.RecordInteraction(ingest_pb.RecordInteractionRequest()))
    violations = details["BadRequest"]
    assert violations.field_violations[0].field == "interaction"


async def test_the_service_of_an_interaction_is_fixed_within_its_account(
    ingest: Ingest, parents: Parents
) -> None:
    interaction = new_interaction(parents)
    await record(ingest, interaction)
    foreign = new_interaction(parents._replace(service_sid=new_sid("KS")), sid=interaction.sid)
    request = ingest_pb.RecordInteractionRequest(interaction=foreign)
    code, reason, _ = await failure(ingest.RecordInteraction(request))
    assert (code, reason) == (Code.FAILED_PRECONDITION, "ERROR_REASON_OWNER_MISMATCH")
    theirs = new_interaction(parents._replace(account_sid=new_sid("AC")), sid=interaction.sid)
    request = ingest_pb.RecordInteractionRequest(interaction=theirs)
    answer = await ingest.RecordInteraction(request)
    assert answer.outcome == ingest_pb.RECORD_OUTCOME_CREATED


async def test_an_account_writes_for_itself_only(ingest: Ingest, parents: Parents) -> None:
    request = ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
    other = [("authorization", basic(new_sid("AC")))]
    code, reason, _ = await failure(ingest.RecordInteraction(request, metadata=other))
    assert (code, reason) == (Code.PERMISSION_DENIED, "ERROR_REASON_PERMISSION_DENIED")
    own = [("authorization", basic(parents.account_sid))]
    await ingest.RecordInteraction(request, metadata=own)


async def test_a_stream_records_valid_interactions_and_reports_the_others(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    there = new_interaction(parents, updated_us=NOON_US + SECOND_US)
    gone = new_interaction(parents)
    await record(ingest, there, gone)
    deleting = DeleteInteractionRequest()
    deleting.MergeFromString(get_request(gone).SerializeToString())
    await reading.DeleteInteraction(deleting)
    newer = new_interaction(parents, sid=there.sid, updated_us=NOON_US + 2 * SECOND_US)
    thief = new_interaction(parents._replace(service_sid=new_sid("KS")), sid=there.sid)
    fresh = new_interaction(parents)
    batches = [
        [fresh, new_interaction(parents, sid=""), there],
        [],
        [newer, there, gone, thief],
    ]

    async def requests() -> AsyncIterator[ingest_pb.RecordInteractionsRequest]:
        for batch in batches:
            yield ingest_pb.RecordInteractionsRequest(interactions=batch)

    response = await ingest.RecordInteractions(requests())
    first, second = response.failures
    assert (first.index, first.reason, first.field) == (1, ERROR_REASON_INVALID_FIELD, "sid")
    assert (second.index, second.reason) == (6, ERROR_REASON_OWNER_MISMATCH)
    assert second.field == ""
    del response.failures[:]
    assert response == ingest_pb.RecordInteractionsResponse(
        created=1, unchanged=1, updated=1, stale=1, deleted=1, failed=2
    )


async def test_a_stream_describes_the_first_100_of_its_failures(ingest: Ingest) -> None:
    async def requests() -> AsyncIterator[ingest_pb.RecordInteractionsRequest]:
        yield ingest_pb.RecordInteractionsRequest(interactions=[pb.Interaction()] * 250)

    response = await ingest.RecordInteractions(requests())
    assert response.failed == 250
    assert [failure.index for failure in response.failures] == list(range(100))


async def test_a_request_of_a_stream_with_too_many_interactions_is_refused(
    ingest: Ingest, parents: Parents
) -> None:
    async def requests() -> AsyncIterator[ingest_pb.RecordInteractionsRequest]:
        yield ingest_pb.RecordInteractionsRequest(interactions=[pb.Interaction()] * 1001)

    code, _, details = await failure(ingest.RecordInteractions(requests()))
    assert code is Code.INVALID_ARGUMENT
    bad: Any = details["BadRequest"]
    assert bad.field_violations[0].field == "interactions"
