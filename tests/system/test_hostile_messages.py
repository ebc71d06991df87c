"""Thousands of malformed messages and metadata from gRPC clients.

All tests use one server. Its log and memory are checked.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from testing.api_keys import new_key
from testing.build import Parents, new_interaction, new_parents
from testing.hostile_client import (
    CALL_SECONDS,
    DELETE,
    GET,
    LIST,
    MARKER,
    RECORD,
    RECORD_MANY,
    SECRET,
    Hostile,
    Metadata,
    attacked,
    properly_ended,
    unharmed,
)
from testing.mutations import length_delimited, mutated, varint
from testing.process import served
from testing.requests import Code, get_request, list_request

from interaction_svc.domain.units import MIB
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1 import interaction_service_pb2 as reading_pb

pytestmark = pytest.mark.each_engine

MAX_MESSAGE = 4 * MIB
AT_ONCE = 64
UNARY = (GET, LIST, DELETE, RECORD)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Hostile]:
    with attacked(tmp_path_factory.mktemp("hostile")) as opened:
        yield opened


def good_requests(hostile: Hostile) -> dict[str, Message]:
    """Return a valid request for every method. The requests do not affect each other's results."""
    stored, mine = hostile.stored, new_parents()
    other = new_interaction(mine, data=json.dumps({"body": MARKER}))
    filtered = reading_pb.ListInteractionsRequest.Filter(
        type=pb.INTERACTION_TYPE_MESSAGE,
        participant_sid=stored.inbound.participant_sid,
        resource_status=pb.RESOURCE_STATUS_RECEIVED,
    )
    filtered.created_at_or_after.CopyFrom(stored.create_time)
    return {
        GET: get_request(stored),
        LIST: list_request(hostile.parents, page_size=3, page_token="token", filter=filtered),
        DELETE: reading_pb.DeleteInteractionRequest(
            service_sid=mine.service_sid, session_sid=mine.session_sid, sid=other.sid
        ),
        RECORD: ingest_pb.RecordInteractionRequest(interaction=other),
        RECORD_MANY: ingest_pb.RecordInteractionsRequest(
            interactions=[other, new_interaction(mine, data=MARKER)]
        ),
    }


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_mutated_messages_get_a_response(hostile: Hostile, seed: int) -> None:
    rng = random.Random(seed)
    good = {m: request.SerializeToString() for m, request in good_requests(hostile).items()}
    calls = []
    for _ in range(AT_ONCE):
        method = rng.choice(UNARY)
        calls.append(hostile.starts(method, mutated(rng, good[method]), odd_metadata(rng)))
    for _ in range(AT_ONCE // 8):
        requests = [mutated(rng, good[RECORD_MANY]) for _ in range(rng.randint(0, 4))]
        calls.append(hostile.starts_stream([good[RECORD_MANY], *requests]))
    for call in calls:
        properly_ended(call)
    hostile.serves()


def odd_metadata(rng: random.Random) -> Metadata:
    """Return metadata that a client library accepts."""
    texts = ["", " ", "x" * rng.choice([1, 128, 129, 4000]), "RQ" + "f" * 32, "a,b", "../..", "%00"]
    odd: list[tuple[str, str | bytes]] = [
        ("x-request-id", rng.choice(texts)),
        ("x-request-id-bin", rng.randbytes(20)),
        ("authorization-bin", rng.randbytes(40)),
        ("grpc-trace-bin", rng.randbytes(rng.choice([0, 29, 1000]))),
        ("x-twilio", rng.choice(texts)),
    ]
    return rng.sample(odd, rng.randint(0, 4))


VALUES: dict[str, Callable[[random.Random], bytes]] = {
    # Field numbers of Interaction, with values that no client library would send.
    "types": lambda rng: b"\x28" + varint(rng.getrandbits(64)),
    "times": lambda rng: length_delimited(
        rng.choice([9, 10]), b"\x08" + varint(rng.getrandbits(64)) + b"\x10" + varint(2**63 - 1)
    ),
    "legs": lambda rng: length_delimited(
        rng.choice([7, 8]), b"\x18" + varint(rng.getrandbits(64)) + length_delimited(1, b"KP")
    ),
    "sids": lambda rng: length_delimited(
        rng.randint(1, 4), b"KI\0" + rng.randbytes(3).hex().encode()
    ),
    "texts": lambda rng: length_delimited(6, MARKER.encode() + b"\xff" * rng.randint(1, 5)),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_out_of_range_are_refused(hostile: Hostile, name: str) -> None:
    rng = random.Random(name)
    stored = hostile.stored.SerializeToString()
    calls = []
    for _ in range(AT_ONCE):
        interaction = length_delimited(1, stored + VALUES[name](rng))
        calls.append(hostile.starts(RECORD, interaction))
    assert {properly_ended(call) for call in calls} == {Code.INVALID_ARGUMENT}
    hostile.serves()


@pytest.mark.parametrize("bad", [b"\xff", b"\x0a\x02\xff\xfe", b"\x0a\x05a"])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("unary_unary", "/grpc.health.v1.Health/Check"),
        ("unary_stream", "/grpc.health.v1.Health/Watch"),
        ("stream_stream", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
        ("stream_stream", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    ],
)
def test_malformed_messages_to_health_and_reflection_are_refused(
    hostile: Hostile, kind: str, method: str, bad: bytes
) -> None:
    method_of: Any = getattr(hostile.channel, kind)(method)
    request: Any = iter([bad]) if kind.startswith("stream") else bad
    start = method_of.future if kind == "unary_unary" else method_of
    call = start(request, timeout=CALL_SECONDS)
    with pytest.raises(grpc.RpcError) as caught:
        next(call) if kind.endswith("stream") else call.result()
    assert properly_ended(caught.value) is Code.INVALID_ARGUMENT


def test_numbers_of_any_size_in_a_list_request_get_a_response(hostile: Hostile) -> None:
    rng = random.Random(5)
    good = list_request(hostile.parents).SerializeToString()
    numbers = [0, 1, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1]
    calls = [
        hostile.starts(
            LIST,
            good
            + b"\x18" + varint(rng.choice(numbers))
            + b"\x28" + varint(rng.choice(numbers))
            + length_delimited(4, rng.choice([b"", b"AAAA", b"-_" * 500]))
            + length_delimited(6, b"\x08" + varint(rng.choice(numbers))),
        )
        for _ in range(AT_ONCE * 2)
    ]  # fmt: skip
    assert {properly_ended(call) for call in calls} == {Code.OK, Code.INVALID_ARGUMENT}


def test_messages_above_the_size_limit_are_refused(hostile: Hostile) -> None:
    rng = random.Random(6)
    full = MAX_MESSAGE
    with unharmed(hostile):
        for size in (full - 1, full, full + 1, full + 1000):
            for data in (
                rng.randbytes(size),
                bytes(size),
                length_delimited(99, bytes(size - 6)),  # an unknown field
                length_delimited(1, b"\x0a" + varint(size - 10) + b"K" * (size - 10))[:size],
                b"\x0a\x00" * (size // 2),
            ):
                for call in (
                    *(hostile.starts(method, data) for method in UNARY),
                    hostile.starts_stream([data]),
                ):
                    if len(data) <= full:
                        properly_ended(call)
                    else:
                        assert call.code() is Code.RESOURCE_EXHAUSTED


def test_a_request_of_a_million_empty_interactions_uses_bounded_memory(hostile: Hostile) -> None:
    with unharmed(hostile):
        calls = [hostile.starts_stream([b"\x0a\x00" * (MAX_MESSAGE // 2)]) for _ in range(16)]
        assert {properly_ended(call) for call in calls} == {Code.INVALID_ARGUMENT}


def test_requests_of_a_thousand_interactions_are_counted(hostile: Hostile) -> None:
    empty, unknown = b"\x0a\x00", length_delimited(9, b"x")
    taken = hostile.starts_stream([empty * 1000 + unknown, unknown * 3000 + empty * 10]).result()
    assert ingest_pb.RecordInteractionsResponse.FromString(taken).failed == 1010
    for requests in ([empty * 1001], [unknown + empty * 500 + unknown + empty * 501]):
        assert properly_ended(hostile.starts_stream(requests)) is Code.INVALID_ARGUMENT
    for begin in (b"\x0b", b"\x0c", b"\x0e", b"\xff" * 11, b"\x0a"):
        call = hostile.starts_stream([begin + empty])
        assert properly_ended(call) is Code.INVALID_ARGUMENT


AWKWARD = {
    "100,000 levels of lists": "[" * 100_000 + "]" * 100_000,
    "40,000 levels of objects": '{"a":' * 40_000 + "1" + "}" * 40_000,
    "the maximum size": "x" * 262_144,
    "the maximum size, in 4-byte characters": "\U0001f600" * 65_536,
    "NUL and other control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "noncharacters": "\ufffe\uffff\U0001ffff\U0010ffff\ufdd0\ufeff",
    "right to left and combining": "\u202e\u0645\u0631\u062d\u0628\u0627 e" + "\u0301" * 1000,
    "lines and separators": "\u2028\u2029\r\n\u0085\x0b\x0c",
    "syntax of other languages": "</script><!-- ' OR 1=1 -- ${x} %s {0} \\u0000 \\",
    "empty": "",
}


@pytest.mark.parametrize("name", AWKWARD)
def test_data_is_returned_unchanged(hostile: Hostile, name: str) -> None:
    interaction = new_interaction(hostile.parents._replace(session_sid=new_parents().session_sid))
    interaction.data = AWKWARD[name]
    hostile.call(RECORD, ingest_pb.RecordInteractionRequest(interaction=interaction))
    found = reading_pb.GetInteractionResponse.FromString(
        hostile.call(GET, get_request(interaction))
    )
    assert found.interaction == interaction
    parents = Parents(interaction.account_sid, interaction.service_sid, interaction.session_sid)
    with httpx.Client(
        base_url=hostile.server.base_url, auth=(parents.account_sid, "x"), trust_env=False
    ) as http:
        one = http.get(f"{parents.path}/{interaction.sid}")
        assert json.loads(one.content)["data"] == interaction.data
        page = json.loads(http.get(parents.path).content)
        assert [resource["data"] for resource in page["interactions"]] == [interaction.data]


@pytest.mark.parametrize("size", [262_145, 1_000_000, MAX_MESSAGE - 1000])
def test_data_beyond_its_limit_is_refused(hostile: Hostile, size: int) -> None:
    interaction = new_interaction(hostile.parents)
    interaction.data = MARKER + "x" * (size - len(MARKER))
    request = ingest_pb.RecordInteractionRequest(interaction=interaction)
    call = hostile.starts(RECORD, request.SerializeToString())
    assert properly_ended(call) is Code.INVALID_ARGUMENT


def test_any_credentials_get_a_response_and_are_not_logged(
    tmp_path_factory: pytest.TempPathFactory, engine: str
) -> None:
    folder = tmp_path_factory.mktemp("keyed")
    interaction = new_interaction(new_parents(), data=MARKER)
    key = new_key(folder / "interactions.db", "read", interaction.account_sid)
    shapes: list[Metadata] = [
        [("authorization", value)]
        for value in (
            "", " ", "Basic", "Basic ", f"Basic {SECRET}", "Basic ====", f"Bearer {SECRET}",
            f"Bearer {key.sid}.{SECRET}", f"Bearer {key.sid}", f"Digest {SECRET}", SECRET * 300,
            key.basic[:-4] + SECRET, f"Bearer {key.sid}.{key.secret}{SECRET}", f"bearer  {SECRET}",
            f"{key.bearer},{SECRET}", "Basic " + "A" * 8000,
        )
    ]  # fmt: skip
    shapes.append([("authorization-bin", SECRET.encode())])
    shapes.append([("authorization", f"Basic {SECRET}"), ("authorization", key.bearer)])
    # All are different: equal credentials at the same time count as one attempt.
    shapes += [[("authorization", f"Bearer {key.sid}.{SECRET}{n}")] for n in range(40)]
    with served(folder) as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            call: Any = channel.unary_unary(GET)
            request = get_request(interaction).SerializeToString()
            calls = [call.future(request, timeout=CALL_SECONDS, metadata=m) for m in shapes * 2]
            refused = {Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED}
            if engine == "h2corn":  # it resets a call with a value of blanks
                refused.add(Code.INTERNAL)
            assert {properly_ended(one) for one in calls} == refused
        logged = server.log.read_text()
    assert SECRET not in logged
    assert key.secret not in logged
    assert "internal error" not in logged
