"""Reading over gRPC, through a real client against a served process."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from testing.build import (
    NOON_US,
    SECOND_US,
    Parents,
    new_interaction,
    new_leg,
    new_parents,
    new_session,
    new_sid,
)
from testing.process import Served
from testing.requests import basic, failure, get_request, list_request, record
from testing.stubs import Ingest, Reading

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    GetInteractionRequest,
    ListInteractionsRequest,
    ListInteractionsResponse,
)

pytestmark = pytest.mark.each_engine

Order = ListInteractionsRequest.Order

Code = grpc.StatusCode


async def test_get_returns_what_was_recorded(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    interaction = new_interaction(parents, NOON_US + 123_456)
    recorded = await ingest.RecordInteraction(
        ingest_pb.RecordInteractionRequest(interaction=interaction)
    )
    assert recorded.outcome == ingest_pb.RECORD_OUTCOME_CREATED
    assert recorded.interaction == interaction
    response = await reading.GetInteraction(get_request(interaction))
    assert response.interaction == interaction
    assert response.interaction.create_time.nanos == 123_456_000


async def test_one_sided_and_empty_interactions_are_returned_unchanged(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    interaction = new_interaction(parents, inbound=None, data=None)
    await record(ingest, interaction)
    stored = (await reading.GetInteraction(get_request(interaction))).interaction
    assert not stored.HasField("inbound")
    assert stored.HasField("outbound")
    assert not stored.HasField("data")


class Refusal(NamedTuple):
    """The response of a failed call, without the SID, and the store operations that it caused."""

    code: grpc.StatusCode
    message: str
    status: str
    trailers: tuple[str, ...]
    store_operations: dict[str, float]


async def refusal_of(server: Served, begin: Callable[[], Any], sid: str) -> Refusal:
    before = await store_operations(server)
    call = begin()
    code, _, _ = await failure(call)
    after = await store_operations(server)
    packed = dict(await call.trailing_metadata())["grpc-status-details-bin"]
    return Refusal(
        code,
        (await call.details()).replace(sid, "the SID"),
        str(status_pb2.Status.FromString(packed)).replace(sid, "the SID"),
        tuple(name for name, _ in await call.trailing_metadata()),
        {name: count - before.get(name, 0) for name, count in after.items()},
    )


async def store_operations(server: Served) -> dict[str, float]:
    """Return the number of store calls that requests made, by operation."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(server.metrics_url)).text
    return {
        sample.labels["operation"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "interaction_svc_store_duration_seconds_count"
        and sample.labels["operation"] not in ("has_keys", "probe")  # made at intervals
    }


@pytest.mark.parametrize("method", ["GetInteraction", "DeleteInteraction"])
async def test_unknown_and_foreign_interactions_get_the_same_response(
    server: Served, reading: Reading, ingest: Ingest, parents: Parents, method: str
) -> None:
    interaction = new_interaction(parents)
    own = [("authorization", basic(parents.account_sid))]
    await record(ingest, interaction, new_interaction(new_parents()))
    asked: list[tuple[Any, Any]] = []
    for field, prefix in (("service_sid", "KS"), ("session_sid", "KC"), ("sid", "KI")):
        request = get_request(interaction)
        setattr(request, field, new_sid(prefix))
        asked.append((request, own))
    nobody_s = get_request(new_interaction(new_parents()))
    foreign = [("authorization", basic(new_sid("AC")))]
    asked += [(nobody_s, own), (get_request(interaction), foreign), (nobody_s, foreign)]
    refusals = []
    kind = GetInteractionRequest if method == "GetInteraction" else DeleteInteractionRequest
    for wanted, metadata in asked:
        sent: Any = kind.FromString(
            wanted.SerializeToString()
        )  # their fields have the same numbers
        begin = partial(getattr(reading, method), sent, metadata=metadata)
        refusals.append(await refusal_of(server, begin, sent.sid))
    first = refusals[0]
    assert first.code is Code.NOT_FOUND
    assert first.message == "Interaction the SID was not found in this Session"
    assert set(first.trailers) == {"x-request-id", "grpc-status-details-bin"}
    assert sum(first.store_operations.values()) == 1
    for refusal in refusals[1:]:
        assert refusal == first
    for caller in (parents.account_sid, new_sid("SK")):
        metadata = [("authorization", basic(caller))]
        assert await reading.GetInteraction(get_request(interaction), metadata=metadata)


async def test_the_details_name_the_interaction_that_was_not_found(
    reading: Reading, parents: Parents
) -> None:
    request = get_request(new_interaction(parents))
    code, reason, details = await failure(reading.GetInteraction(request))
    assert (code, reason) == (Code.NOT_FOUND, "ERROR_REASON_INTERACTION_NOT_FOUND")
    assert set(details) == {"ErrorInfo", "ResourceInfo"}
    resource: Any = details["ResourceInfo"]
    assert resource.resource_type == "interaction_svc.v1.Interaction"
    assert resource.resource_name == request.sid


@pytest.mark.parametrize("field", ["service_sid", "session_sid", "sid"])
@pytest.mark.parametrize("value", ["", "KI1", "ki" + "0" * 32, "é" * 34])
async def test_malformed_sids_are_named_with_their_pattern(
    reading: Reading, parents: Parents, field: str, value: str
) -> None:
    interaction = new_interaction(parents)
    prefix = {"service_sid": "KS", "session_sid": "KC", "sid": "KI"}[field]
    calls: list[Awaitable[Any]] = []
    get, delete = get_request(interaction), DeleteInteractionRequest(allow_missing=True)
    delete.MergeFromString(get.SerializeToString())
    setattr(get, field, value)
    setattr(delete, field, value)
    calls += [reading.GetInteraction(get), reading.DeleteInteraction(delete)]
    if field != "sid":
        listing = list_request(parents)
        setattr(listing, field, value)
        calls.append(reading.ListInteractions(listing))
    for call in calls:
        code, reason, details = await failure(call)
        assert (code, reason) == (Code.INVALID_ARGUMENT, "ERROR_REASON_INVALID_FIELD")
        bad: Any = details["BadRequest"]
        (violation,) = bad.field_violations
        assert violation.field == field
        assert f"^{prefix}[0-9a-fA-F]{{32}}$" in violation.description


async def test_list_pages_through_a_session_both_ways(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    interactions = new_session(parents, 25)
    await record(ingest, *interactions)
    for order, expected in (
        (Order.ORDER_UNSPECIFIED, interactions),
        (Order.ORDER_CREATED_ASC, interactions),
        (Order.ORDER_CREATED_DESC, interactions[::-1]),
    ):
        request = list_request(parents, order=order, page_size=10)
        pages: list[ListInteractionsResponse] = []
        while not pages or request.page_token:
            pages.append(await reading.ListInteractions(request))
            request.page_token = pages[-1].next_page_token
        assert [len(page.interactions) for page in pages] == [10, 10, 5]
        assert [row for page in pages for row in page.interactions] == expected
        assert pages[0].previous_page_token == ""
        request.page_token = pages[2].previous_page_token
        assert list((await reading.ListInteractions(request)).interactions) == expected[10:20]
        request.page_token, request.page_size = pages[1].next_page_token, 2
        assert list((await reading.ListInteractions(request)).interactions) == expected[20:22]


async def test_an_unknown_session_is_empty(reading: Reading, parents: Parents) -> None:
    response = await reading.ListInteractions(list_request(parents))
    assert response == ListInteractionsResponse()


async def test_page_sizes(reading: Reading, ingest: Ingest, parents: Parents) -> None:
    await record(ingest, *new_session(parents, 1010))
    for size, expected in ((0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)):
        response = await reading.ListInteractions(list_request(parents, page_size=size))
        assert len(response.interactions) == expected
    code, _, details = await failure(reading.ListInteractions(list_request(parents, page_size=-1)))
    assert code is Code.INVALID_ARGUMENT
    bad: Any = details["BadRequest"]
    assert bad.field_violations[0].field == "page_size"


async def test_filters(reading: Reading, ingest: Ingest, parents: Parents) -> None:
    leg = new_leg(pb.RESOURCE_STATUS_BUSY)
    voice = new_interaction(
        parents, NOON_US, type=pb.INTERACTION_TYPE_VOICE, inbound=leg, outbound=None
    )
    message = new_interaction(parents, NOON_US + SECOND_US, outbound=leg)
    other = new_interaction(parents, NOON_US + 2 * SECOND_US)
    await record(ingest, voice, message, other)
    middle = message.create_time
    cases: list[tuple[dict[str, Any], list[pb.Interaction]]] = [
        ({}, [voice, message, other]),
        ({"type": pb.INTERACTION_TYPE_VOICE}, [voice]),
        ({"participant_sid": leg.participant_sid}, [voice, message]),
        ({"resource_sid": leg.resource_sid}, [voice, message]),
        ({"resource_status": pb.RESOURCE_STATUS_BUSY}, [voice, message]),
        ({"created_at_or_after": middle}, [message, other]),
        ({"created_before": middle}, [voice]),
        ({"resource_sid": leg.resource_sid, "created_at_or_after": middle}, [message]),
        ({"resource_sid": new_sid("SM")}, []),
    ]
    for conditions, expected in cases:
        wanted = ListInteractionsRequest.Filter(**conditions)
        response = await reading.ListInteractions(list_request(parents, filter=wanted))
        assert list(response.interactions) == expected, conditions
    finer = ListInteractionsRequest.Filter(created_at_or_after=middle, created_before=middle)
    finer.created_at_or_after.nanos, finer.created_before.nanos = 0, 1
    response = await reading.ListInteractions(list_request(parents, filter=finer))
    assert list(response.interactions) == [message]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"order": 9}, "order"),
        ({"filter": {"type": 9}}, "filter.type"),
        ({"filter": {"resource_status": 99}}, "filter.resource_status"),
        ({"filter": {"participant_sid": "KP1"}}, "filter.participant_sid"),
        ({"filter": {"resource_sid": "1"}}, "filter.resource_sid"),
        ({"filter": {"created_at_or_after": {"nanos": -1}}}, "filter.created_at_or_after"),
        ({"filter": {"created_before": {"seconds": 2**60}}}, "filter.created_before"),
        ({"page_token": "nonsense"}, "page_token"),
        ({"page_token": "x" * 10_000}, "page_token"),
    ],
)
async def test_bad_list_arguments_are_named(
    reading: Reading, parents: Parents, given: dict[str, Any], field: str
) -> None:
    code, _, details = await failure(reading.ListInteractions(list_request(parents, **given)))
    assert code is Code.INVALID_ARGUMENT
    bad: Any = details["BadRequest"]
    assert [violation.field for violation in bad.field_violations] == [field]


async def test_the_error_for_a_token_of_another_list_names_the_changed_argument(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    await record(ingest, *new_session(parents, 3))
    first = await reading.ListInteractions(list_request(parents, page_size=1))
    token = first.next_page_token
    voice = ListInteractionsRequest.Filter(type=pb.INTERACTION_TYPE_VOICE)
    cases = [
        (list_request(parents._replace(service_sid=new_sid("KS"))), "service_sid"),
        (list_request(parents._replace(session_sid=new_sid("KC"))), "session_sid"),
        (list_request(parents, order=Order.ORDER_CREATED_DESC), "order"),
        (list_request(parents, filter=voice), "filter"),
    ]
    for request, field in cases:
        request.page_token = token
        code, reason, details = await failure(reading.ListInteractions(request))
        assert (code, reason) == (Code.INVALID_ARGUMENT, "ERROR_REASON_PAGE_TOKEN_MISMATCH")
        bad: Any = details["BadRequest"]
        assert bad.field_violations[0].field == field
    same = list_request(parents, order=Order.ORDER_CREATED_ASC, page_token=token)
    assert len((await reading.ListInteractions(same)).interactions) == 2


async def test_delete_is_final_and_a_second_one_is_not_found(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    interaction = new_interaction(parents)
    await record(ingest, interaction)
    request = DeleteInteractionRequest()
    request.MergeFromString(get_request(interaction).SerializeToString())
    await reading.DeleteInteraction(request)
    for call in (
        reading.DeleteInteraction(request),
        reading.GetInteraction(get_request(interaction)),
    ):
        code, reason, _ = await failure(call)
        assert (code, reason) == (Code.NOT_FOUND, "ERROR_REASON_INTERACTION_NOT_FOUND")
    request.allow_missing = True
    await reading.DeleteInteraction(request)
    again = await ingest.RecordInteraction(
        ingest_pb.RecordInteractionRequest(interaction=interaction)
    )
    assert again == ingest_pb.RecordInteractionResponse(outcome=ingest_pb.RECORD_OUTCOME_DELETED)


@pytest.mark.parametrize(
    "authorization",
    ["", "Basic", "Basic !!!", "Bearer x", basic("AC1"), basic("AC" + "0" * 32, ""), "Basic QUM="],
)
async def test_malformed_credentials_are_refused(
    reading: Reading, parents: Parents, authorization: str
) -> None:
    call = reading.ListInteractions(
        list_request(parents), metadata=[("authorization", authorization)]
    )
    code, reason, _ = await failure(call)
    assert (code, reason) == (Code.UNAUTHENTICATED, "ERROR_REASON_UNAUTHENTICATED")


async def test_malformed_messages_are_the_callers_error(channel: grpc.aio.Channel) -> None:
    for method in (
        "InteractionService/GetInteraction",
        "InteractionService/ListInteractions",
        "InteractionService/DeleteInteraction",
        "IngestService/RecordInteraction",
    ):
        for garbage, expected in (
            (b"\xff", "ERROR_REASON_MALFORMED_REQUEST"),
            (b"\x0a\xff\xff", "ERROR_REASON_MALFORMED_REQUEST"),
            (b"\x0a\x02\xff\xfe", "ERROR_REASON_INVALID_FIELD"),
            (b"\x0a\x01", "ERROR_REASON_INVALID_FIELD"),
        ):
            raw: Any = channel.unary_unary(f"/interaction_svc.v1.{method}")
            call: Awaitable[Any] = raw(garbage)
            code, reason, _ = await failure(call)
            assert (code, reason) == (Code.INVALID_ARGUMENT, expected)


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    raw: Any = channel.unary_unary("/interaction_svc.v1.InteractionService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(b"")
    assert caught.value.code() is Code.UNIMPLEMENTED


async def test_health_serves(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in (
        "",
        "interaction_svc.v1.InteractionService",
        "interaction_svc.v1.IngestService",
    ):
        response = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    listed = await health.List(health_pb2.HealthListRequest())
    assert len(listed.statuses) == 3
    assert all(s.status == health_pb2.HealthCheckResponse.SERVING for s in listed.statuses.values())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="none"))
    assert caught.value.code() is Code.NOT_FOUND


async def test_concurrent_calls_all_succeed(
    reading: Reading, ingest: Ingest, parents: Parents
) -> None:
    async def record_and_get(number: int) -> None:
        interaction = new_interaction(parents, NOON_US + number)
        await ingest.RecordInteraction(ingest_pb.RecordInteractionRequest(interaction=interaction))
        assert (await reading.GetInteraction(get_request(interaction))).interaction == interaction

    await asyncio.gather(*(record_and_get(number) for number in range(100)))
    page = await reading.ListInteractions(list_request(parents, page_size=1000))
    assert len(page.interactions) == 100
