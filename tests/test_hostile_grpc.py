"""What the gRPC port withstands: bad messages and metadata by the thousand, and what is no gRPC.

All on one server, whose log and size are looked at after each test.
"""

import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1 import interaction_service_pb2 as reading_pb
from tests import http2
from tests.build import Parents, new_interaction, new_parents
from tests.calls import Code, get_request, list_request
from tests.hostile import descriptors, length_delimited, mutated, resident_mib, varint
from tests.keyring import new_key
from tests.serving import Served, served
from tests.waiting import wait_until

MARKER = "marker-of-a-private-message"
SECRET = "SecretThatNobodyMayLog"
FORGED = b'\n{"event": "audit", "level": "info", "action": "forged"}\n'
MAX_MESSAGE = 4 * 1024 * 1024
GROWTH_MIB = 200
"""What the server may have grown by after a test: 64 calls at once of 2 MiB on average, as they
arrive and as they are parsed, and what the allocator keeps. Each of the tests sends several times
that, or more connections and streams than fit into it."""
CALL_SECONDS = 30
AT_ONCE = 64

READING, INGEST = "/interaction_svc.v1.InteractionService/", "/interaction_svc.v1.IngestService/"
GET, LIST, DELETE = (
    f"{READING}{verb}" for verb in ("GetInteraction", "ListInteractions", "DeleteInteraction")
)
RECORD, RECORD_MANY = f"{INGEST}RecordInteraction", f"{INGEST}RecordInteractions"
UNARY = (GET, LIST, DELETE, RECORD)

REFUSALS = {
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.UNAUTHENTICATED,
    Code.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED,
}
Metadata = list[tuple[str, str | bytes]]


class Hostile:
    """A server, and what a client does to it; a good call is made after everything."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.channel = grpc.insecure_channel(
            server.grpc_address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", 1024 * 1024),
                ("grpc.absolute_max_metadata_size", 1024 * 1024),
            ],
        )
        self.parents = new_parents()
        self.stored = new_interaction(self.parents, data=json.dumps({"body": MARKER}))
        self.call(RECORD, ingest_pb.RecordInteractionRequest(interaction=self.stored))

    def call(self, method: str, request: Message) -> bytes:
        call: Any = self.channel.unary_unary(method)
        response: bytes = call(request.SerializeToString(), timeout=CALL_SECONDS)
        return response

    def serves(self) -> None:
        found = reading_pb.GetInteractionResponse.FromString(
            self.call(GET, get_request(self.stored))
        )
        assert found.interaction == self.stored

    def starts(self, method: str, request: bytes, metadata: Metadata | None = None) -> Any:
        call: Any = self.channel.unary_unary(method)
        return call.future(request, timeout=CALL_SECONDS, metadata=metadata)

    def starts_stream(self, requests: list[bytes]) -> Any:
        call: Any = self.channel.stream_unary(RECORD_MANY)
        return call.future(iter(requests), timeout=CALL_SECONDS)


def properly_ended(call: Any) -> Code:
    """Give the code of a call, which is OK or a refusal with details."""
    code: Code = call.code()
    if code is Code.OK:
        return code
    assert code in REFUSALS, (code, call.details())
    status = rpc_status.from_call(call)
    assert status is not None, (code, call.details())
    assert status.details[0].TypeName() == "google.rpc.ErrorInfo"
    assert MARKER not in call.details()
    return code


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    with served(tmp_path_factory.mktemp("hostile"), "--calls-per-second", "0") as server:
        hostile = Hostile(server)
        yield hostile
        hostile.channel.close()
    lines = [json.loads(line) for line in server.log.read_bytes().splitlines()]
    assert [line for line in lines if line["level"] == "error"] == []
    logged = server.log.read_text()
    assert "forged" not in logged
    assert MARKER not in logged
    assert SECRET not in logged


@contextmanager
def unharmed(hostile: Hostile) -> Iterator[None]:
    """Fail unless afterwards it serves, has the descriptors it had, and has grown little."""
    hostile.serves()
    before, size = descriptors(hostile.server), resident_mib(hostile.server)
    yield
    hostile.serves()
    wait_until(lambda: descriptors(hostile.server) <= before + 5)
    assert resident_mib(hostile.server) <= size + GROWTH_MIB


def good_requests(hostile: Hostile) -> dict[str, Message]:
    """Give a good request to every method; none changes what is asked for afterwards."""
    stored, mine = hostile.stored, new_parents()
    other = new_interaction(mine, data=json.dumps({"body": MARKER}))
    filtered = reading_pb.ListInteractionsRequest.Filter(
        type=pb.INTERACTION_TYPE_MESSAGE,
        participant_sid=stored.inbound.participant_sid,
        resource_status=pb.RESOURCE_STATUS_RECEIVED,
    )
    filtered.created_after.CopyFrom(stored.create_time)
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
def test_mutated_messages_get_an_answer(hostile: Hostile, seed: int) -> None:
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
    """Give metadata that a client's library lets through."""
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
    # Numbers of the fields of Interaction, and what a client's library would not put there.
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
def test_values_that_no_field_may_have_are_refused(hostile: Hostile, name: str) -> None:
    rng = random.Random(name)
    stored = hostile.stored.SerializeToString()
    calls = []
    for _ in range(AT_ONCE):
        interaction = length_delimited(1, stored + VALUES[name](rng))
        calls.append(hostile.starts(RECORD, interaction))
    assert {properly_ended(call) for call in calls} == {Code.INVALID_ARGUMENT}
    hostile.serves()


def test_numbers_of_any_size_in_a_list_s_request_get_an_answer(hostile: Hostile) -> None:
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
    assert {properly_ended(call) for call in calls} <= {Code.OK, Code.INVALID_ARGUMENT}


def test_messages_up_to_the_limit_are_answered_and_others_refused(hostile: Hostile) -> None:
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


def test_empty_messages_by_the_million_in_one_do_not_fill_the_memory(hostile: Hostile) -> None:
    with unharmed(hostile):
        calls = [hostile.starts_stream([b"\x0a\x00" * (MAX_MESSAGE // 2)]) for _ in range(16)]
        assert {properly_ended(call) for call in calls} == {Code.INVALID_ARGUMENT}


def test_a_thousand_interactions_a_request_are_counted_right(hostile: Hostile) -> None:
    empty, unknown = b"\x0a\x00", length_delimited(9, b"x")
    taken = hostile.starts_stream([empty * 1000 + unknown, unknown + empty * 10]).result()
    assert ingest_pb.RecordInteractionsResponse.FromString(taken).failed == 1010
    for requests in ([empty * 1001], [unknown + empty * 500 + unknown + empty * 501]):
        assert properly_ended(hostile.starts_stream(requests)) is Code.INVALID_ARGUMENT
    for begin in (b"\x0b\x0c", b"\x0e", b"\xff" * 11, unknown * 2001, b"\x0a"):
        call = hostile.starts_stream([begin + empty])
        assert properly_ended(call) is Code.INVALID_ARGUMENT


AWKWARD = {
    "100,000 levels of lists": "[" * 100_000 + "]" * 100_000,
    "40,000 levels of objects": '{"a":' * 40_000 + "1" + "}" * 40_000,
    "as large as it may be": "x" * 262_144,
    "as large, of 4-byte characters": "\U0001f600" * 65_536,
    "NUL and other control characters": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "what is no character": "\ufffe\uffff\U0001ffff\U0010ffff\ufdd0\ufeff",
    "right to left and combining": "\u202e\u0645\u0631\u062d\u0628\u0627 e" + "\u0301" * 1000,
    "lines and separators": "\u2028\u2029\r\n\u0085\x0b\x0c",
    "what other languages are made of": "</script><!-- ' OR 1=1 -- ${x} %s {0} \\u0000 \\",
    "empty": "",
}


@pytest.mark.parametrize("name", AWKWARD)
def test_data_comes_back_as_it_was(hostile: Hostile, name: str) -> None:
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


@contextmanager
def connected(hostile: Hostile) -> Iterator[socket.socket]:
    host, _, port = hostile.server.grpc_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=CALL_SECONDS) as opened:
        yield opened


def exchange(hostile: Hostile, sent: bytes, *, most: int = 2**22) -> bytes:
    """Send this, and give what comes back until the end, or until enough has come."""
    received = b""
    with connected(hostile) as opened:
        try:
            opened.sendall(sent)
            opened.shutdown(socket.SHUT_WR)
            while len(received) < most and (data := opened.recv(65_536)):
                received += data
        except TimeoutError:
            raise
        except OSError:  # whoever sends garbage may be cut off while sending
            pass
    return received


def garbage_frames(rng: random.Random) -> bytes:
    """Give frames of all kinds, flags and streams, with payloads and lengths that don't fit."""
    made = b""
    for _ in range(rng.randint(1, 12)):
        payload = rng.randbytes(rng.choice([0, 1, 4, 5, 8, 9, 100, 16_384, 20_000]))
        stream = rng.choice([0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1])
        one = http2.frame(rng.randrange(12), rng.randrange(256), stream, payload)
        made += one if rng.random() < 0.8 else one[: rng.randrange(len(one))]
    return made


def bad_headers(rng: random.Random) -> bytes:
    """Make a call whose headers no library would send: names, values and their coding."""
    name = rng.choice(
        ["authorization", "X-Upper", "", "x\0y", "te", ":path", "grpc-timeout", "x\n"]
    )
    value = rng.choice(
        [
            f"Basic {SECRET}",
            f"Bearer {SECRET}\0",
            "",
            "\x01\x7f\xff",
            "9" * 30 + "S",
            "é\n",
            "x" * 9000,
        ]
    )
    pairs = [(name, value), ("content-type", "application/grpc"), ("grpc-timeout", "1q")]
    block = http2.call_headers(GET, rng.sample(pairs, rng.randint(1, 3)))
    if rng.random() < 0.3:
        block += rng.randbytes(rng.randint(1, 40))
    return http2.call(1, block, http2.message(rng.randbytes(rng.randint(0, 50))))


GARBAGE: dict[str, Callable[[random.Random], bytes]] = {
    "random bytes": lambda rng: rng.randbytes(rng.choice([1, 10, 100, 5000])),
    "a part of the preface": lambda rng: http2.PREFACE[: rng.randrange(len(http2.PREFACE))],
    "the preface and random bytes": lambda rng: http2.PREFACE + rng.randbytes(300),
    "garbage frames": lambda rng: http2.PREFACE + http2.settings() + garbage_frames(rng),
    "garbage settings": lambda rng: (
        http2.PREFACE
        + http2.settings(*((rng.getrandbits(4), rng.getrandbits(32)) for _ in range(20)))
    ),
    "garbage headers": lambda rng: http2.greeting() + bad_headers(rng),
    "messages that don't fit their lengths": lambda rng: (
        http2.greeting()
        + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call_headers(RECORD))
        + http2.frame(http2.DATA, http2.END_STREAM, 1,
                      struct.pack(">BI", rng.randrange(3), rng.getrandbits(32)) + rng.randbytes(20))
    ),
    "a farewell that forges a log line": lambda rng: (
        http2.greeting()
        + http2.frame(http2.GOAWAY, payload=struct.pack(">II", 0, 7) + FORGED)
    ),
    "HTTP/1": lambda rng: rng.choice(
        [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST " + GET.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n",
            b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
            b"GET / HTTP/0.9\r\n" * 1000,
        ]
    ),
    "TLS": lambda rng: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
}  # fmt: skip


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_on_the_port_harms_nobody(hostile: Hostile, name: str) -> None:
    rng = random.Random(name)
    with unharmed(hostile):
        for _ in range(60):
            exchange(hostile, GARBAGE[name](rng))


def test_half_open_connections_leave_room_for_others(hostile: Hostile) -> None:
    begins = [b"", http2.PREFACE[:10], http2.PREFACE, http2.greeting()]
    begins.append(http2.greeting() + http2.frame(http2.HEADERS, 0, 1, http2.call_headers(GET)))
    begins.append(
        http2.greeting()
        + http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call_headers(RECORD))
        + http2.frame(http2.DATA, 0, 1, b"\0\0\1")
    )
    with unharmed(hostile):
        opened = []
        try:
            for number in range(300):
                host, _, port = hostile.server.grpc_address.rpartition(":")
                opened.append(socket.create_connection((host, int(port))))
                opened[-1].sendall(begins[number % len(begins)])
            hostile.serves()
        finally:
            for connection in opened:
                connection.close()


def headers_frame(stream: int, flags: int = http2.END_HEADERS) -> bytes:
    return http2.frame(http2.HEADERS, flags, stream, http2.call_headers(GET))


def rapid_reset() -> bytes:
    """2,000 streams, each opened and given up at once (CVE-2023-44487)."""
    cancel = struct.pack(">I", 8)
    return b"".join(
        headers_frame(stream) + http2.frame(http2.RST_STREAM, stream=stream, payload=cancel)
        for stream in range(1, 4000, 2)
    )


def made_you_reset() -> bytes:
    """2,000 streams, each given up by the server at once (CVE-2025-8671)."""
    nothing = struct.pack(">I", 0)
    return b"".join(
        headers_frame(stream) + http2.frame(http2.WINDOW_UPDATE, stream=stream, payload=nothing)
        for stream in range(1, 4000, 2)
    )


def continuations() -> bytes:
    """Headers that go on for 16 MiB (CVE-2024-27316)."""
    block = http2.header_block([("x-more", "y" * 8000)] * 2)
    return headers_frame(1, 0) + http2.frame(http2.CONTINUATION, 0, 1, block) * 1000


FLOODS: dict[str, Callable[[], bytes]] = {
    "streams opened and reset": rapid_reset,
    "streams that the server resets": made_you_reset,
    "streams without an end": lambda: b"".join(map(headers_frame, range(1, 4000, 2))),
    "pings": lambda: http2.frame(http2.PING, payload=bytes(8)) * 20_000,
    "settings": lambda: http2.settings((http2.INITIAL_WINDOW_SIZE, 1)) * 20_000,
    "empty settings": lambda: http2.settings() * 20_000,
    "continuations": continuations,
    "empty continuations": lambda: (
        headers_frame(1, 0) + http2.frame(http2.CONTINUATION, 0, 1) * 20_000
    ),
    "empty data": lambda: headers_frame(1) + http2.frame(http2.DATA, 0, 1) * 20_000,
    "window updates": lambda: (
        http2.frame(http2.WINDOW_UPDATE, payload=struct.pack(">I", 1)) * 20_000
    ),
    "priorities": lambda: http2.frame(http2.PRIORITY, 0, 3, bytes(5)) * 20_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_frames_harm_nobody(hostile: Hostile, name: str) -> None:
    flood = http2.greeting() + FLOODS[name]()
    with unharmed(hostile):
        for _ in range(3):
            exchange(hostile, flood)
            hostile.serves()


def test_credentials_of_any_shape_get_an_answer_and_are_not_logged(
    tmp_path_factory: pytest.TempPathFactory,
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
    with served(folder) as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            call: Any = channel.unary_unary(GET)
            request = get_request(interaction).SerializeToString()
            calls = [call.future(request, timeout=CALL_SECONDS, metadata=m) for m in shapes * 4]
            refused = {Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED}
            assert {properly_ended(one) for one in calls} == refused
        logged = server.log.read_text()
    assert SECRET not in logged
    assert key.secret not in logged
    assert "internal error" not in logged
