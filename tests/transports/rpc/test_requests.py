"""Requests that can't be parsed: the error names the Interaction and the field."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from testing.build import Parents, new_interaction, new_parents
from testing.hostile_client import DELETE, GET, LIST, RECORD, RECORD_MANY
from testing.mutations import field, length_delimited, mutated, varint
from testing.requests import Code, failure, get_request, list_request
from testing.stubs import Reading

from interaction_svc.transports.rpc.wire_format import MAX_FIELDS, find_fault
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.error_reason_pb2 import ErrorReason

NOT_UTF_8 = b"\xff\xfe"
INVALID, MALFORMED = "ERROR_REASON_INVALID_FIELD", "ERROR_REASON_MALFORMED_REQUEST"


class Bad(NamedTuple):
    """Bytes appended to a valid Interaction, and the expected error."""

    appended: bytes
    field: str
    message: str
    reason: str = INVALID


BAD = {
    "sid": Bad(length_delimited(1, NOT_UTF_8), "sid", "must be UTF-8"),
    "data": Bad(length_delimited(6, b"a\xed\xa0\x80"), "data", "must be UTF-8"),
    "data, overlong": Bad(length_delimited(6, b"\xc0\x80"), "data", "must be UTF-8"),
    "url": Bad(
        length_delimited(7, length_delimited(5, NOT_UTF_8)), "inbound.resource_url", "must be UTF-8"
    ),
    "leg cut off": Bad(
        length_delimited(8, b"\x0a\x22KP"), "outbound.participant_sid", "is cut off"
    ),
    "time that is not a message": Bad(
        length_delimited(9, b"\xff"), "create_time", "is not a valid google"
    ),
    "longer than the request": Bad(b"\x3a\x7f", "inbound", "is cut off"),
    "data as a number": Bad(field(6, 0, b"\x05"), "data", "has wire type 0; it must have 2"),
    "leg as fixed64": Bad(field(7, 1, bytes(8)), "inbound", "has wire type 1; it must have 2"),
    "type as text": Bad(length_delimited(5, b"x"), "type", "has wire type 2; it must have 0"),
    "status as text": Bad(
        length_delimited(7, length_delimited(3, b"x")),
        "inbound.resource_status",
        "has wire type 2; it must have 0",
    ),
    "seconds as text": Bad(
        length_delimited(10, length_delimited(1, b"x")),
        "update_time.seconds",
        "has wire type 2; it must have 0",
    ),
    "end of a group": Bad(b"\x3c", "inbound", "has wire type 4; it must have 2"),
    "no tag": Bad(b"\xff" * 11, "", "not a valid interaction_svc.v1.Interaction", MALFORMED),
    "no wire type": Bad(field(99, 7, b""), "", "not a valid", MALFORMED),
    "cut off where unknown": Bad(b"\xfa\x06\x7f", "", "not a valid", MALFORMED),
}


def request_of(interactions: list[bytes]) -> bytes:
    return b"".join(length_delimited(1, one) for one in interactions)


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_interaction_of_a_stream_is_reported_and_the_others_are_recorded(
    channel: grpc.aio.Channel, reading: Reading, parents: Parents, name: str
) -> None:
    good = [new_interaction(parents) for _ in range(4)]
    bad = new_interaction(parents).SerializeToString() + BAD[name].appended
    first, second = ([one.SerializeToString() for one in half] for half in (good[:2], good[2:]))
    stream: Any = channel.stream_unary(RECORD_MANY)
    answer = await stream(iter([request_of([*first, bad]), request_of([bad, *second])]))
    found = ingest_pb.RecordInteractionsResponse.FromString(answer)
    assert (found.created, found.failed) == (4, 2)
    assert [failed.index for failed in found.failures] == [2, 3]
    for failed in found.failures:
        assert (failed.field, ErrorReason.Name(failed.reason)) == (
            BAD[name].field,
            BAD[name].reason,
        )
        assert BAD[name].message in failed.message
    page = await reading.ListInteractions(list_request(parents))
    assert {one.sid for one in page.interactions} == {one.sid for one in good}


@pytest.mark.parametrize("name", BAD)
async def test_the_error_for_a_single_bad_interaction_names_its_field(
    channel: grpc.aio.Channel, parents: Parents, name: str
) -> None:
    bad = new_interaction(parents).SerializeToString() + BAD[name].appended
    record: Any = channel.unary_unary(RECORD)
    code, reason, details = await failure(record(length_delimited(1, bad)))
    assert code is Code.INVALID_ARGUMENT
    assert reason == INVALID
    violations: Any = details["BadRequest"]
    (violation,) = violations.field_violations
    expected = f"interaction.{BAD[name].field}".rstrip(".")
    assert violation.field == expected
    if BAD[name].field:
        assert BAD[name].message in violation.description
    else:
        assert "is not a valid interaction_svc.v1.Interaction" in violation.description


@pytest.mark.parametrize("method", [GET, LIST, DELETE])
@pytest.mark.parametrize(("number", "name"), [(1, "service_sid"), (2, "session_sid")])
async def test_the_error_for_text_that_is_not_utf_8_names_its_field(
    channel: grpc.aio.Channel, parents: Parents, method: str, number: int, name: str
) -> None:
    call: Any = channel.unary_unary(method)
    request = list_request(parents).SerializeToString()  # valid for all three
    code, reason, details = await failure(call(request + length_delimited(number, NOT_UTF_8)))
    assert (code, reason) == (Code.INVALID_ARGUMENT, INVALID)
    info: Any = details["ErrorInfo"]
    assert info.metadata["field"] == name
    for garbage in (b"\xff" * 11, field(99, 7, b""), b"\xfa\x06\x7f"):
        code, reason, _ = await failure(call(request + garbage))
        assert (code, reason) == (Code.INVALID_ARGUMENT, MALFORMED)


async def test_the_error_for_a_filter_that_is_not_utf_8_names_it(
    channel: grpc.aio.Channel, parents: Parents
) -> None:
    call: Any = channel.unary_unary(LIST)
    bad = list_request(parents).SerializeToString()
    bad += length_delimited(6, length_delimited(4, NOT_UTF_8))
    _, _, details = await failure(call(bad))
    info: Any = details["ErrorInfo"]
    assert info.metadata["field"].startswith("filter.")


async def test_unknown_fields_are_dropped_and_any_valid_encoding_is_accepted(
    channel: grpc.aio.Channel, reading: Reading, parents: Parents
) -> None:
    one, other = new_interaction(parents), new_interaction(parents)
    unknown = length_delimited(99, b"x" * 300) + field(100, 0, b"\x05") + field(101, 5, bytes(4))
    # The type again in more bytes than necessary, and a leg in two pieces.
    merged = b"\x28\x81\x00" + length_delimited(7, b"")
    many = length_delimited(8, unknown * MAX_FIELDS) + unknown * MAX_FIELDS
    stream: Any = channel.stream_unary(RECORD_MANY)
    answer = await stream(
        iter(
            [
                request_of(
                    [
                        one.SerializeToString() + many + merged,
                        unknown + merged + other.SerializeToString(),
                    ]
                )
            ]
        )
    )
    assert ingest_pb.RecordInteractionsResponse.FromString(answer).created == 2
    for sent in (one, other):
        assert (await reading.GetInteraction(get_request(sent))).interaction == sent


def garbled() -> Iterator[bytes]:
    rng = random.Random(3)
    good = new_interaction(new_parents()).SerializeToString()
    for _ in range(3000):
        yield mutated(rng, good)
    yield varint(2**70)
    yield b"\x3a" + varint(2**64 - 1)
    yield length_delimited(7, b"") * 1_000_000


def test_the_search_for_a_fault_ends_for_any_bytes() -> None:
    found = [find_fault(pb.Interaction.DESCRIPTOR, data) for data in garbled()]
    faults = [fault for fault in found if fault is not None]
    assert 1000 < len(faults) < len(found)
    for fault in faults:
        assert fault.field
        assert fault.problem


def test_a_valid_message_has_no_fault() -> None:
    for data in ("", "x" * 100_000, "\u4e2d\U0001f600"):
        good = new_interaction(new_parents(), data=data).SerializeToString()
        assert find_fault(pb.Interaction.DESCRIPTOR, good) is None
