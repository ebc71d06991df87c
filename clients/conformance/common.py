"""The options of a conformance program, its requests, and its report."""

import base64
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1 import interaction_service_pb2 as reading_pb

HEALTH_NAMES = ("", "interaction_svc.v1.InteractionService")
MESSAGE_MAX = 4 << 20
DEADLINE_SECONDS = 60
SHORT_DEADLINE_SECONDS = 0.3


class CaseError(Exception):
    """An answer was not as expected."""


class Options:
    """The options of a program: what to call, and the answers to expect."""

    def __init__(self, path: str) -> None:
        given: dict[str, Any] = json.loads(Path(path).read_text())
        self.name: str = given["name"]
        self.cases: list[str] = given["cases"]
        self.authorization: str = given["authorization"]
        self.sessions: dict[str, dict[str, Any]] = given["sessions"]
        self.tls: dict[str, str] | None = given["tls"]
        self.expected = reading_pb.GetInteractionResponse.FromString(
            base64.b64decode(given["expected"])
        )
        self.new_sids: list[str] = given["new_sids"]
        self._account_sid: str = given["account_sid"]
        self.service_sid: str = given["service_sid"]

    def metadata(self, **more: str) -> tuple[tuple[str, str], ...]:
        """Return the key, and further pairs, with `_` in a name for `-`."""
        pairs = ((name.replace("_", "-"), value) for name, value in more.items())
        return (("authorization", self.authorization), *pairs)

    def get_request(self, session: str, sid: str) -> reading_pb.GetInteractionRequest:
        """Return a request for an Interaction of the Session of this name."""
        return reading_pb.GetInteractionRequest(
            service_sid=self.service_sid, session_sid=self.session_sid(session), sid=sid
        )

    def first(self) -> reading_pb.GetInteractionRequest:
        """Return the request whose response is `expected`."""
        return self.get_request("paged", self.sessions["paged"]["sids"][0])

    def missing(self) -> reading_pb.GetInteractionRequest:
        """Return a request for an Interaction that does not exist."""
        return self.get_request("paged", "KI" + "0" * 32)

    def session_sid(self, session: str) -> str:
        """Return the SID of the Session of this name."""
        return str(self.sessions[session]["session_sid"])

    def interaction(self, number: int, data: str = "{}") -> pb.Interaction:
        """Return a new Interaction of the Session `written`; each number has another SID."""
        time = Timestamp(seconds=1_771_070_400 + number, nanos=123_456_000)
        return pb.Interaction(
            sid=self.new_sids[number],
            account_sid=self._account_sid,
            service_sid=self.service_sid,
            session_sid=self.session_sid("written"),
            type=pb.INTERACTION_TYPE_MESSAGE,
            data=data,
            create_time=time,
            update_time=time,
        )

    def record(self, number: int, data: str = "{}") -> ingest_pb.RecordInteractionRequest:
        """Return a request that records a new Interaction."""
        return ingest_pb.RecordInteractionRequest(interaction=self.interaction(number, data))

    def batch(self, start: int, count: int) -> ingest_pb.RecordInteractionsRequest:
        """Return a request of a stream with `count` new Interactions."""
        numbers = range(start, start + count)
        return ingest_pb.RecordInteractionsRequest(
            interactions=[self.interaction(number, "x" * 1000) for number in numbers]
        )

    def batches(self) -> list[ingest_pb.RecordInteractionsRequest]:
        """Return the requests of the case `record_stream`."""
        return [self.batch(100 + 50 * number, 50) for number in range(5)]

    def delete_request(self, interaction: pb.Interaction) -> reading_pb.DeleteInteractionRequest:
        """Return a request that deletes an Interaction."""
        return reading_pb.DeleteInteractionRequest(
            service_sid=self.service_sid,
            session_sid=interaction.session_sid,
            sid=interaction.sid,
        )

    def check_list(
        self,
        session: str,
        pages: list[reading_pb.ListInteractionsResponse],
        expected_pages: int,
        least_bytes: int,
    ) -> None:
        """Check the pages of a Session, and the size of the first one."""
        sids = [interaction.sid for page in pages for interaction in page.interactions]
        expect("SIDs", sids, self.sessions[session]["sids"])
        expect("pages", len(pages), expected_pages)
        size = pages[0].ByteSize()
        expect(f"the size {size} is right", least_bytes < size < MESSAGE_MAX, expected=True)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel with TLS."""
        if self.tls is None:
            raise ValueError("the options have no tls")
        parts = [self.tls["ca"], self.tls["key"], self.tls["certificate"]]
        return grpc.ssl_channel_credentials(
            *(Path(part).read_bytes() if part else None for part in parts)
        )


def expect(what: str, seen: object, expected: object) -> None:
    """Raise CaseError if two values differ."""
    if seen != expected:
        raise CaseError(f"{what}: expected {expected!r:.200}, not {seen!r:.200}")


def expect_error(error: Any, code: grpc.StatusCode, reason: str | None = None) -> None:
    """Check the code of an RpcError or AioRpcError, and the reason in its details."""
    expect("code", error.code(), code)
    if reason is not None:
        status = rpc_status.from_call(error)
        expect("reason", reason_of(status.details if status else ()), reason)


def reason_of(details: Iterable[Any]) -> str:
    """Return the reason of the ErrorInfo in packed details, or an empty string."""
    info = error_details_pb2.ErrorInfo()
    for packed in details:
        if packed.Unpack(info):
            return str(info.reason)
    return ""


def values_of(metadata: Iterable[tuple[str, str | bytes]] | None, name: str) -> list[str | bytes]:
    """Return the values of a name in metadata."""
    return [value for key, value in metadata or () if key == name]


def report(case: str, error: BaseException | None) -> None:
    """Print the outcome of a case."""
    detail = "" if error is None else f"{type(error).__name__}: {error}"
    print(json.dumps({"case": case, "ok": error is None, "detail": detail}), flush=True)


def await_restart() -> None:
    """Request a restart of the server, and return after it."""
    print("restart", flush=True)
    expect("the answer", sys.stdin.readline(), "restarted\n")


def request_ids(error: Any) -> list[str | bytes]:
    """Return the request IDs in the trailing metadata of an RpcError or AioRpcError."""
    return values_of(error.trailing_metadata(), "x-request-id")
