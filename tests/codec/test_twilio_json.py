"""Conversion of Interactions to and from Twilio's JSON."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from testing.build import new_interaction, new_parents, normalized
from testing.strategies import NOW_US, interactions

from interaction_svc.codec.twilio_json import (
    STATUSES,
    TYPES,
    from_json,
    interaction_url,
    list_url,
    property_of,
    to_envelope,
    to_json,
)
from interaction_svc.domain.errors import InvalidField
from interaction_svc.v1 import interaction_pb2 as pb

BASE_URL = "https://log.example.com"
PROPERTIES = {
    "sid", "session_sid", "service_sid", "account_sid", "data", "type",
    "inbound_participant_sid", "inbound_resource_sid", "inbound_resource_status",
    "inbound_resource_type", "inbound_resource_url",
    "outbound_participant_sid", "outbound_resource_sid", "outbound_resource_status",
    "outbound_resource_type", "outbound_resource_url",
    "date_created", "date_updated", "url",
}  # fmt: skip


@given(interactions())
def test_json_of_an_interaction_is_read_back_unchanged(interaction: pb.Interaction) -> None:
    sent = orjson.loads(orjson.dumps(to_json(interaction, BASE_URL, fraction=True)))
    assert normalized(from_json(sent), now_us=NOW_US) == interaction


@given(interactions())
def test_parsed_json_is_written_unchanged(interaction: pb.Interaction) -> None:
    resource = to_json(interaction, BASE_URL)
    assert to_json(from_json(resource), BASE_URL) == resource


@given(interactions())
def test_all_19_properties_are_always_present(interaction: pb.Interaction) -> None:
    resource = to_json(interaction, BASE_URL)
    assert set(resource) == PROPERTIES
    assert resource["url"] == interaction_url(BASE_URL, interaction)


def test_the_documented_example() -> None:
    sid = "0123456789abcdef" * 2
    resource = {
        "service_sid": f"KS{sid}",
        "data": '{"body":"some message"}',
        "date_created": "2015-07-30T20:00:00Z",
        "date_updated": "2015-07-30T20:00:00Z",
        "session_sid": f"KC{sid}",
        "account_sid": f"AC{sid}",
        "inbound_participant_sid": f"KP{sid}",
        "inbound_resource_sid": f"SM{sid}",
        "inbound_resource_status": "sent",
        "inbound_resource_type": "Message",
        "inbound_resource_url": None,
        "outbound_participant_sid": f"KP{sid}",
        "outbound_resource_sid": f"SM{sid}",
        "outbound_resource_status": "sent",
        "outbound_resource_type": "Message",
        "outbound_resource_url": None,
        "sid": f"KI{sid}",
        "type": "message",
        "url": f"{BASE_URL}/v1/Services/KS{sid}/Sessions/KC{sid}/Interactions/KI{sid}",
    }
    interaction = from_json(resource)
    assert interaction.inbound.resource_status == pb.RESOURCE_STATUS_SENT
    assert interaction.type == pb.INTERACTION_TYPE_MESSAGE
    assert interaction.create_time.ToJsonString() == "2015-07-30T20:00:00Z"
    assert to_json(interaction, BASE_URL) == resource


def test_every_word_of_twilio_has_an_enum_value() -> None:
    assert set(TYPES.values()) == {"message", "voice", "unknown"}
    assert set(STATUSES.values()) == {
        "accepted", "answered", "busy", "canceled", "completed", "deleted", "delivered",
        "delivery-unknown", "failed", "in-progress", "initiated", "no-answer", "queued",
        "received", "receiving", "ringing", "scheduled", "sending", "sent", "undelivered",
        "unknown", "partially-delivered", "read",
    }  # fmt: skip


def test_words_in_any_case_and_times_with_fractions_and_offsets() -> None:
    interaction = from_json(
        {
            "type": "Voice",
            "inbound_resource_type": "call",
            "outbound_resource_type": "MESSAGE",
            "inbound_resource_status": "In-Progress",
            "date_created": "2026-02-14T12:00:00.123456789Z",
            "date_updated": "2026-02-14T13:00:00.5+01:00",
        }
    )
    resource = to_json(interaction, BASE_URL)
    assert resource["type"] == "voice"
    assert resource["inbound_resource_type"] == "Call"
    assert resource["outbound_resource_type"] == "Message"
    assert resource["inbound_resource_status"] == "in-progress"
    assert resource["date_created"] == "2026-02-14T12:00:00Z"
    assert interaction.create_time.nanos == 123_456_000
    assert interaction.update_time.ToJsonString() == "2026-02-14T12:00:00.500Z"


def test_a_missing_leg_has_nulls_and_missing_keys_mean_null() -> None:
    interaction = new_interaction(new_parents(), inbound=None)
    resource = to_json(interaction, BASE_URL)
    inbound = [key for key in resource if key.startswith("inbound_")]
    assert len(inbound) == 5
    assert all(resource[key] is None for key in inbound)
    assert not from_json(resource).HasField("inbound")
    for key in inbound:
        del resource[key]
    assert from_json(resource) == interaction


def test_null_and_empty_data_are_distinct() -> None:
    assert not from_json({"data": None}).HasField("data")
    assert from_json({"data": ""}).HasField("data")


@pytest.mark.parametrize(
    ("resource", "field", "problem"),
    [
        ({"sid": 5}, "sid", "must be a string or null"),
        ({"data": {"body": "hello"}}, "data", "must be a string or null"),
        ({"type": "fax"}, "type", "must be one of message, unknown, voice"),
        ({"outbound_resource_status": "eaten"}, "outbound_resource_status", "must be one of acc"),
        ({"date_created": "yesterday"}, "date_created", "write YYYY-MM-DD"),
        ({"date_created": "2026-02-30T00:00:00Z"}, "date_created", "not a time that exists"),
        ({"date_updated": "0001-01-01T00:00:00+01:00"}, "date_updated", "years 1 to 9999|exists"),
        ({"data": "\ud800"}, "data", "not valid Unicode"),
        ([], "", "not a JSON object"),
        (None, "", "not a JSON object"),
    ],
)
def test_errors_name_the_invalid_field(resource: object, field: str, problem: str) -> None:
    with pytest.raises(InvalidField, match=problem) as caught:
        from_json(resource)
    assert caught.value.field == field


@given(
    st.dictionaries(
        st.sampled_from(sorted(PROPERTIES)) | st.text(max_size=5),
        st.none() | st.text() | st.integers() | st.floats() | st.lists(st.none()) | st.booleans(),
    )
)
def test_any_object_is_parsed_or_refused_with_a_property(resource: dict[str, Any]) -> None:
    refused: list[InvalidField] = []
    try:
        from_json(resource)
    except InvalidField as error:
        refused.append(error)
    assert all(error.field in PROPERTIES for error in refused)


def test_fields_map_to_their_properties() -> None:
    assert property_of("create_time") == "date_created"
    assert property_of("inbound.participant_sid") == "inbound_participant_sid"
    assert property_of("sid") == "sid"


def test_an_envelope_has_all_seven_keys_and_absolute_links() -> None:
    url = list_url(BASE_URL, "KS1", "KC1")
    envelope = to_envelope(
        [], url, page=2, page_size=7, page_token="now", next_page_token="on",
        previous_page_token="back", carried=[("Order", "desc"), ("Type", "voice")],
    )  # fmt: skip
    assert json.loads(json.dumps(envelope)) == {
        "interactions": [],
        "meta": {
            "page": 2,
            "page_size": 7,
            "key": "interactions",
            "url": f"{url}?PageSize=7&Page=2&PageToken=now&Order=desc&Type=voice",
            "first_page_url": f"{url}?PageSize=7&Page=0&Order=desc&Type=voice",
            "next_page_url": f"{url}?PageSize=7&Page=3&PageToken=on&Order=desc&Type=voice",
            "previous_page_url": f"{url}?PageSize=7&Page=1&PageToken=back&Order=desc&Type=voice",
        },
    }
    alone = to_envelope(
        [], url, page=0, page_size=7, page_token="", next_page_token="", previous_page_token=""
    )
    assert alone["meta"] == {
        "page": 0, "page_size": 7, "key": "interactions", "url": f"{url}?PageSize=7&Page=0",
        "first_page_url": f"{url}?PageSize=7&Page=0", "next_page_url": None,
        "previous_page_url": None,
    }  # fmt: skip
