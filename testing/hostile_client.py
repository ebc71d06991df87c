"""A server under attack by a hostile client, and checks of the damage."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from interaction_svc.domain.units import MIB
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as reading_pb
from testing.build import new_interaction, new_parents
from testing.process import Served, served
from testing.requests import Code, get_request
from testing.wait import wait_until

MARKER = "marker-of-a-private-message"
SECRET = "SecretThatNobodyMayLog"
FORGED = b'\n{"event": "audit", "level": "info", "action": "forged"}\n'
GROWTH_MIB = 200
"""The permitted growth of the server's memory.

It is enough for 64 concurrent calls of 2 MiB on average, received and parsed, and for memory that
the allocator keeps. Each test sends several times as much, or opens more connections and streams
than fit into it.
"""
CALL_SECONDS = 30

READING, INGEST = "/interaction_svc.v1.InteractionService/", "/interaction_svc.v1.IngestService/"
GET, LIST, DELETE = (
    f"{READING}{verb}" for verb in ("GetInteraction", "ListInteractions", "DeleteInteraction")
)
RECORD, RECORD_MANY = f"{INGEST}RecordInteraction", f"{INGEST}RecordInteractions"

REFUSALS = {
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.UNAUTHENTICATED,
    Code.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED,
}
Metadata = list[tuple[str, str | bytes]]
_LEFT = "connection writer was closed"


class Hostile:
    """A server and its hostile client."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.channel = grpc.insecure_channel(
            server.grpc_address,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", MIB),
                ("grpc.absolute_max_metadata_size", MIB),
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
    """Return the code of a call: OK, or that of an error with details.

    h2corn resets a call whose metadata has control characters.
    """
    code: Code = call.code()
    if code is Code.OK:
        return code
    if os.environ["INTERACTION_SVC_GRPC_ENGINE"] == "h2corn" and code is Code.INTERNAL:
        assert "RST_STREAM with error code 1" in call.details()
        return code
    assert code in REFUSALS, (code, call.details())
    status = rpc_status.from_call(call)
    assert status is not None, (code, call.details())
    assert status.details[0].TypeName() == "google.rpc.ErrorInfo"
    assert MARKER not in call.details()
    return code


@contextmanager
def attacked(folder: Path) -> Iterator[Hostile]:
    """Serve until the end of the block. Fail if the log has an error or any sent bytes."""
    with served(folder, "--calls-per-second", "0") as server:
        hostile = Hostile(server)
        yield hostile
        hostile.channel.close()
    lines = [json.loads(line) for line in server.log.read_bytes().splitlines()]
    # h2corn logs so that a client has left.
    errors = [line for line in lines if line["level"] == "error" and line.get("detail") != _LEFT]
    assert errors == []
    logged = server.log.read_text()
    assert "forged" not in logged
    assert MARKER not in logged
    assert SECRET not in logged


@contextmanager
def unharmed(hostile: Hostile) -> Iterator[None]:
    """Check that after the block the server serves, and has not leaked descriptors or memory."""
    hostile.serves()
    before, size = descriptors(hostile.server), resident_mib(hostile.server)
    yield
    hostile.serves()
    wait_until(lambda: descriptors(hostile.server) <= before + 5)
    assert resident_mib(hostile.server) <= size + GROWTH_MIB


def resident_mib(server: Served) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def descriptors(server: Served) -> int:
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())
