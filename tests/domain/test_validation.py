"""Validation and normalization of Interactions."""

import re
from typing import Any

import pytest
from hypothesis import given
from testing.build import (
    NOON_US,
    SECOND_US,
    new_interaction,
    new_leg,
    new_parents,
    new_sid,
    normalized,
)
from testing.strategies import NOW_US, interactions, times_us

from interaction_svc.domain import timestamps
from interaction_svc.domain.errors import InvalidField
from interaction_svc.domain.sids import Sid, new_interaction_sid
from interaction_svc.domain.validation import (
    EARLIEST_US,
    LATEST_AHEAD_US,
    MAX_DATA_BYTES,
)
from interaction_svc.store import decode, row_of
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.interaction_service_pb2 import (
    GetInteractionResponse,
    ListInteractionsResponse,
)

PARENTS = new_parents()
_BAD_URLS = [
    "javascript:alert(1)",
    "ftp://example.com/",
    "//example.com/",
    "https://",
    "https:///path",
    "https://example.com/a b",
    "https://example.com/<script>",
    "https://example.com/\n",
    "https://example.com/\x9b2J",
    "http\N{LATIN SMALL LETTER LONG S}://example.com/",
    "https://example.com\\@example.org/",
    "https://:443/",
    "https://user@",
    "https://example.com:port/",
    "https://[::1",
    "x",
]
_GOOD_URLS = [
    "HTTP://EXAMPLE.com",
    "https://user:word@example.com:8443?a[]=b:c@d#e",
    "https://[2001:db8::1]:443/",
    "https://m\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen.de/\N{LATIN SMALL LETTER E WITH ACUTE}",
]


@given(interactions())
def test_normalizing_again_changes_nothing(interaction: pb.Interaction) -> None:
    assert normalized(interaction, now_us=NOW_US) == interaction


@given(interactions())
def test_a_frame_is_a_response_and_frames_joined_are_a_list(interaction: pb.Interaction) -> None:
    frame = row_of(interaction).frame
    assert GetInteractionResponse.FromString(frame).interaction == interaction
    tokens = ListInteractionsResponse(next_page_token="n", previous_page_token="p")
    joined = ListInteractionsResponse.FromString(frame * 3 + tokens.SerializeToString())
    assert joined == ListInteractionsResponse(
        interactions=[interaction] * 3, next_page_token="n", previous_page_token="p"
    )
    assert decode(frame) == interaction


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"sid": "KI" + "0" * 31}, "sid", r"must match \^KI"),
        ({"sid": "KI" + "g" * 32}, "sid", r"must match \^KI"),
        ({"sid": new_sid("KI") + "\n"}, "sid", r"must match \^KI"),
        ({"sid": ""}, "sid", "is required"),
        ({"account_sid": ""}, "account_sid", "is required"),
        ({"account_sid": new_sid("SK")}, "account_sid", r"must match \^AC"),
        ({"service_sid": new_sid("KC")}, "service_sid", r"must match \^KS"),
        ({"session_sid": new_sid("KS")}, "session_sid", r"must match \^KC"),
        ({"type": 0}, "type", "is required"),
        ({"type": 4}, "type", "4 is not a value of InteractionType"),
        ({"data": "é" * (MAX_DATA_BYTES // 2) + "x"}, "data", "262,144 bytes"),
        ({"inbound": new_leg(participant_sid="KP1")}, "inbound.participant_sid", r"\^KP"),
        (
            {"outbound": new_leg(resource_sid="SM1")},
            "outbound.resource_sid",
            r"must match \^\[a-zA-Z\]",
        ),
        ({"outbound": pb.Leg(resource_status=24)}, "outbound.resource_status", "24 is not a"),  # type: ignore[arg-type]
        ({"inbound": new_leg(resource_type="x" * 65)}, "inbound.resource_type", "64 characters"),
        ({"inbound": new_leg(resource_url="x" * 2049)}, "inbound.resource_url", "2,048 char"),
        ({"create_time": None}, "create_time", "is required"),
        ({"create_time": {"seconds": 253_402_300_800}}, "create_time", "years 1 to 9999"),
        ({"update_time": {"nanos": -1}}, "update_time", "nanos from 0"),
        ({"create_time": {"seconds": EARLIEST_US // SECOND_US - 1}}, "create_time", "2008-01-01"),
        (
            {"create_time": {"seconds": (NOW_US + LATEST_AHEAD_US) // SECOND_US, "nanos": 1000}},
            "create_time",
            "one day from now",
        ),
        (
            {"update_time": {"seconds": NOON_US // SECOND_US - 1, "nanos": 999_999_999}},
            "update_time",
            "the second of create_time",
        ),
        (
            {"update_time": {"seconds": (NOW_US + LATEST_AHEAD_US) // SECOND_US, "nanos": 1000}},
            "update_time",
            "one day from now",
        ),
        *(
            ({"inbound": new_leg(resource_url=bad)}, "inbound.resource_url", "http or https")
            for bad in _BAD_URLS
        ),
    ],
)
def test_errors_name_the_invalid_field(fields: dict[str, Any], field: str, problem: str) -> None:
    interaction = new_interaction(PARENTS)
    for name, value in fields.items():
        interaction.ClearField(name)  # type: ignore[arg-type]
        interaction.MergeFrom(pb.Interaction(**{name: value}))
    with pytest.raises(InvalidField, match=problem) as caught:
        normalized(interaction, now_us=NOW_US)
    assert caught.value.field == field


@pytest.mark.parametrize("url", _GOOD_URLS)
def test_urls_are_kept_unchanged(url: str) -> None:
    interaction = new_interaction(PARENTS, inbound=new_leg(resource_url=url))
    assert normalized(interaction, now_us=NOW_US) == interaction


def test_values_at_the_limits_are_accepted() -> None:
    leg = new_leg(resource_type="x" * 64, resource_url="https://h/" + "u" * 2038)
    data = "é" * (MAX_DATA_BYTES // 2)
    interaction = new_interaction(PARENTS, data=data, inbound=leg)
    assert normalized(interaction, now_us=NOW_US) == interaction


def test_times_are_cut_to_microseconds_in_a_copy() -> None:
    interaction = new_interaction(PARENTS)
    interaction.create_time.nanos = 999_999_999
    before = pb.Interaction.FromString(interaction.SerializeToString())
    assert normalized(interaction, now_us=NOW_US).create_time.nanos == 999_999_000
    assert interaction == before


def test_a_missing_update_time_is_the_create_time() -> None:
    interaction = new_interaction(PARENTS)
    interaction.ClearField("update_time")
    assert normalized(interaction, now_us=NOW_US).update_time == interaction.create_time


def test_a_missing_sid_is_generated_with_the_time_in_it() -> None:
    interaction = new_interaction(PARENTS, sid="")
    interaction.ClearField("create_time")
    made = [normalized(interaction, now_us=NOON_US, make_sid=True) for _ in range(2)]
    assert timestamps.to_us(made[0].create_time) == NOON_US
    assert made[0].sid != made[1].sid
    assert all(Sid.INTERACTION.matches(record.sid) for record in made)
    assert all(int(record.sid[2:14], 16) == NOON_US // 1000 for record in made)
    with pytest.raises(InvalidField, match="create_time"):
        normalized(
            pb.Interaction(sid=new_sid("KI"), **PARENTS._asdict(), type=pb.INTERACTION_TYPE_VOICE),
            now_us=NOON_US,
            make_sid=True,
        )


def test_new_sids_are_ordered_by_time() -> None:
    made = [new_interaction_sid(NOON_US + n * 1000) for n in range(100)]
    assert made == sorted(made)


def test_an_empty_leg_and_unknown_fields_are_dropped() -> None:
    interaction = new_interaction(PARENTS, inbound=pb.Leg())
    unknown = bytes([0xFA, 0x7F, 2]) + b"xy"  # field 2047, which no version has
    with_unknown = pb.Interaction.FromString(interaction.SerializeToString() + unknown)
    with_unknown.outbound.MergeFromString(unknown)
    record = normalized(with_unknown, now_us=NOW_US)
    assert not record.HasField("inbound")
    assert b"xy" not in record.SerializeToString()


@given(times_us)
def test_times_are_written_and_parsed_back(us: int) -> None:
    assert timestamps.parse(timestamps.text(us, fraction=True)) == us
    whole = timestamps.text(us)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", whole)
    assert timestamps.parse(whole) == us // 1_000_000 * 1_000_000


@pytest.mark.parametrize(
    "text",
    ["2026-02-14T12:00:00Z", "2026-02-14t12:00:00z", "2026-02-14 12:00:00Z",
     "2026-02-14 12:00:00+00:00", "2026-02-14T12:00:00.000Z", "2026-02-14 13:00:00+01",
     "2026-02-14 11:30:00 -0030", "2026-02-14 12:00:00 UTC", "2026-02-14 12:00:00.000000+0000"],
)  # fmt: skip
def test_every_accepted_form_of_a_time_is_parsed(text: str) -> None:
    assert timestamps.text(timestamps.parse(text), fraction=True) == "2026-02-14T12:00:00Z"


@pytest.mark.parametrize(
    "text",
    ["", "2026-02-14", "2026-02-14T12:00:00", "2026-02-14 12:00:00 CET", "2026-02-14T12:00Z",
     "2026-02-14T12:00:00.Z", "2026-02-14T12:00:00.1234567890Z", "2026-13-01T00:00:00Z",
     "2026-02-14T25:00:00Z", "2026-02-14T12:00:60Z", "2026-02-14T12:00:00+25:00", "2026-W07-6",
     "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-00:01", "٢٠٢٦-02-14T12:00:00Z"],
)  # fmt: skip
def test_invalid_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time|years 1 to 9999"):
        timestamps.parse(text)


@pytest.mark.parametrize("kind", list(Sid))
def test_sids_are_matched_as_a_whole(kind: Sid) -> None:
    good = new_sid(kind.pattern[1:3] if kind is not Sid.RESOURCE else "SM")
    assert kind.matches(good)
    assert kind.matches(good[:2] + good[2:].upper())
    for bad in (
        "",
        good[:-1],
        good + "0",
        good + "\n",
        " " + good,
        good[:2].lower() + "g" + good[3:],
    ):
        assert not kind.matches(bad)
    assert re.fullmatch(kind.pattern, good)


def test_sids_are_stored_in_lower_case() -> None:
    interaction = new_interaction(PARENTS)
    written = pb.Interaction()
    written.CopyFrom(interaction)
    for name in ("sid", "account_sid", "service_sid", "session_sid"):
        sid = getattr(interaction, name)
        setattr(written, name, sid[:2] + sid[2:].upper())
    for leg in (written.inbound, written.outbound):
        leg.participant_sid = leg.participant_sid.upper()
        leg.resource_sid = leg.resource_sid.upper()
    assert normalized(written, now_us=NOW_US) == interaction
