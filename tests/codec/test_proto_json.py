"""Messages as JSON in protobuf's canonical mapping."""

import json
from contextlib import suppress

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from testing.build import new_interaction, new_parents
from testing.strategies import interactions, texts

from interaction_svc.codec.proto_json import parse_json, print_interaction, print_json
from interaction_svc.domain.errors import InvalidField, MalformedRequest, ServiceError
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2 import RecordInteractionsRequest
from interaction_svc.v1.interaction_service_pb2 import (
    GetInteractionRequest,
    ListInteractionsRequest,
)


def canonical(message: Message) -> object:
    return json.loads(json_format.MessageToJson(message))


@given(interactions())
def test_an_interaction_is_printed_as_by_the_library(interaction: pb.Interaction) -> None:
    assert json.loads(print_interaction(interaction)) == canonical(interaction)


@pytest.mark.parametrize(
    "interaction",
    [
        pb.Interaction(),
        pb.Interaction(type=99, data="", inbound=pb.Leg()),  # type: ignore[arg-type]
        pb.Interaction(outbound=pb.Leg(resource_status=99)),  # type: ignore[arg-type]
    ],
)
def test_odd_values_are_printed_as_by_the_library(interaction: pb.Interaction) -> None:
    assert json.loads(print_interaction(interaction)) == canonical(interaction)


def test_other_messages_are_printed_by_the_library() -> None:
    message = ingest_pb.RecordInteractionResponse(
        interaction=new_interaction(new_parents()), outcome=ingest_pb.RECORD_OUTCOME_CREATED
    )
    assert json.loads(print_json(message)) == canonical(message)


@given(st.dictionaries(st.sampled_from(["sid", "serviceSid", "session_sid"]), texts))
def test_a_flat_message_is_parsed_as_by_the_library(fields: dict[str, str]) -> None:
    text = json.dumps(fields).encode()
    parsed = parse_json(GetInteractionRequest, text)
    assert parsed == json_format.Parse(text, GetInteractionRequest())


def test_a_field_under_both_names_is_refused() -> None:
    with pytest.raises(InvalidField) as caught:
        parse_json(GetInteractionRequest, b'{"serviceSid": "a", "service_sid": "b"}')
    assert caught.value.field == "service_sid"


@given(interactions())
def test_a_printed_interaction_is_parsed_to_the_same(interaction: pb.Interaction) -> None:
    sent = json_format.MessageToJson(ingest_pb.RecordInteractionRequest(interaction=interaction))
    parsed = parse_json(ingest_pb.RecordInteractionRequest, sent.encode())
    assert parsed.interaction == interaction


@pytest.mark.parametrize(
    "sent",
    ['{"serviceSid": "KS1", "session_sid": "KC1"}', '{"service_sid": "KS1", "sessionSid": "KC1"}'],
)
def test_fields_have_either_name(sent: str) -> None:
    parsed = parse_json(GetInteractionRequest, sent.encode())
    assert parsed == GetInteractionRequest(service_sid="KS1", session_sid="KC1")


@pytest.mark.parametrize(
    ("sent", "field"),
    [('{"page_Size": 1}', "page_Size"), ('{"filter": {"form": "x"}}', "filter.form")],
)
def test_an_unknown_field_is_refused_by_name(sent: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_json(ListInteractionsRequest, sent.encode())
    assert (caught.value.field, caught.value.problem) == (field, "is not a field of this message")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["pageSize", "order", "filter", "type", "createdBefore", "sid", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_a_message_or_a_service_error(value: object) -> None:
    with suppress(ServiceError):
        parse_json(ListInteractionsRequest, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("sent", "field", "problem"),
    [
        ('{"pageSize": "secret"}', "pageSize", "must be a whole number of at most 32 bits"),
        ('{"page_size": 1e99}', "page_size", "must be a whole number of at most 32 bits"),
        (
            '{"order": "secret"}',
            "order",
            "must be one of ORDER_UNSPECIFIED, ORDER_CREATED_ASC, ORDER_CREATED_DESC",
        ),
        (
            '{"filter": {"type": "secret"}}',
            "filter.type",
            "must be one of INTERACTION_TYPE_UNSPECIFIED, INTERACTION_TYPE_MESSAGE,"
            " INTERACTION_TYPE_VOICE, INTERACTION_TYPE_UNKNOWN",
        ),
        (
            '{"filter": {"createdBefore": "secret"}}',
            "filter.createdBefore",
            "must be a time such as 2026-02-14T12:00:00Z",
        ),
        ('{"filter": "secret"}', "filter", "must be an object"),
        ('{"filter": []}', "filter", "must be an object"),
        ('{"serviceSid": {"secret": 1}}', "serviceSid", "must be a string"),
    ],
)
def test_the_error_of_a_wrong_value_names_its_field_and_what_is_right(
    sent: str, field: str, problem: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_json(ListInteractionsRequest, sent.encode())
    assert (caught.value.field, caught.value.problem) == (field, problem)


@pytest.mark.parametrize(
    ("sent", "field", "problem"),
    [
        ('{"sidd": "x"}', "interactions[1].sidd", "is not a field of this message"),
        ('{"inbound": {"x": 1}}', "interactions[1].inbound.x", "is not a field of this message"),
        ('{"inbound": []}', "interactions[1].inbound", "must be an object"),
        ("1", "interactions[1]", "must be an object"),
        ("null", "interactions[1]", "must be an object"),
    ],
)
def test_the_error_of_an_item_of_a_list_names_its_index(
    sent: str, field: str, problem: str
) -> None:
    text = f'{{"interactions": [{{"sid": "x"}}, {sent}]}}'
    with pytest.raises(InvalidField) as caught:
        parse_json(RecordInteractionsRequest, text.encode())
    assert caught.value.message == f"{field}: {problem}"


def test_a_list_of_objects_is_parsed() -> None:
    text = b'{"interactions": [{"sid": "x"}, {"inbound": {"resourceSid": "y"}}]}'
    parsed = parse_json(RecordInteractionsRequest, text)
    assert [each.sid for each in parsed.interactions] == ["x", ""]
    assert parsed.interactions[1].inbound.resource_sid == "y"
    for other in ("{}", '"x"', "1"):
        with pytest.raises(InvalidField, match="interactions: must be a list of objects"):
            parse_json(RecordInteractionsRequest, b'{"interactions": %b}' % other.encode())


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"{", b"[]", b'"secret"', b"null", b"\xff", b"{}{}", b'{"sid": "secret"',
        b"NaN", b"[" * 100_000,
    ],
    ids=range(10),
)  # fmt: skip
def test_other_texts_are_malformed(sent: bytes) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_json(GetInteractionRequest, sent)
    assert "interaction_svc.v1.GetInteractionRequest" in caught.value.message
    assert "secret" not in caught.value.message
