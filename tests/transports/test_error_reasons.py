"""The code, metadata and details of each reason, compared with the protos and docs/grpc.md."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from testing.build import new_sid
from testing.clock import Time
from testing.paths import ROOT

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.rate_limits import WRONG_AT_ONCE, FailedAuthLimiter, RequestRateLimit
from interaction_svc.admission.response_backlog import ResponseBacklog
from interaction_svc.domain import errors
from interaction_svc.domain.errors import ServiceError
from interaction_svc.domain.principals import ANONYMOUS, Principal
from interaction_svc.domain.units import MIB
from interaction_svc.telemetry.request_context import RequestContext
from interaction_svc.transports.rpc.error_details import status_of
from interaction_svc.transports.status import codes_of
from interaction_svc.v1.error_reason_pb2 import ErrorReason

PREFIX = "ERROR_REASON_"
REASONS = [name for name in ErrorReason.keys() if name != f"{PREFIX}UNSPECIFIED"]  # noqa: SIM118
SID = new_sid("KI")
ACCOUNT, ADMIN = Principal(new_sid("AC"), new_sid("SK")), Principal(None, new_sid("SK"))


def raised(*calls: Callable[[], object]) -> ServiceError:
    """Return the error of the last call. The calls before it must succeed."""
    for call in calls[:-1]:
        call()
    with pytest.raises(ServiceError) as caught:
        calls[-1]()
    return caught.value


def beyond_rate(caller: Principal) -> ServiceError:
    rate = RequestRateLimit(1, Time())
    return raised(*[lambda: rate.count(caller)] * 2)


def beyond_attempts() -> ServiceError:
    attempts = FailedAuthLimiter(Time())
    under_way = [attempts.one("192.0.2.1:1") for _ in range(WRONG_AT_ONCE + 1)]
    waits = [attempt.__enter__() for attempt in under_way]
    assert waits[:-1] == [0] * WRONG_AT_ONCE
    return attempts.refusal(waits[-1])


def beyond_places() -> ServiceError:
    return raised(lambda: asyncio.run(ConcurrencyLimit(0).wait_for_place()))


def beyond_share(caller: Principal, **limits: Any) -> ServiceError:
    concurrency = ConcurrencyLimit(2, **limits)
    return raised(*[lambda: concurrency.begin(caller, is_stream=True)] * 2)


def beyond_waiting(caller: Principal) -> ServiceError:
    concurrency = ConcurrencyLimit(2, call_share=0.5)
    assert [concurrency.begin(caller) for _ in range(2)] == [True, False]
    return raised(lambda: asyncio.run(concurrency.wait_for_share(caller)))


def beyond_unsent(
    caller: Principal, peer: str, *, held_by: int, bytes_of_each: int
) -> ServiceError:
    unsent = ResponseBacklog()
    call = RequestContext("grpc", "m", peer, "id", "OK", principal=caller)
    for number in range(held_by):
        unsent.held(
            RequestContext("grpc", "m", f"other:{number}", "id", "OK", principal=caller),
            bytes_of_each,
        )
    return raised(lambda: unsent.check(call, ResponseBacklog.MAX_BYTES_A_CONNECTION - 1))


class Case(NamedTuple):
    """An error of the service, and its metadata on the wire."""

    error: Callable[[], ServiceError]
    metadata: dict[str, str]


def unsent_of_account() -> ServiceError:
    return beyond_unsent(ACCOUNT, "a:1", held_by=2, bytes_of_each=60 * MIB)


CASES: dict[str, list[Case]] = {
    "INTERACTION_NOT_FOUND": [Case(lambda: errors.InteractionNotFound(SID), {"sid": SID})],
    "INVALID_FIELD": [
        Case(lambda: errors.InvalidField("a.b", "is bad"), {"field": "a.b"}),
        Case(lambda: errors.InvalidConsistencyToken("token"), {"field": "token"}),
    ],
    "INVALID_PAGE_TOKEN": [Case(errors.InvalidPageToken, {"field": "page_token"})],
    "PAGE_TOKEN_MISMATCH": [Case(lambda: errors.PageTokenMismatch("order"), {"field": "order"})],
    "MALFORMED_REQUEST": [Case(lambda: errors.MalformedRequest("The request is …"), {})],
    "OWNER_MISMATCH": [Case(lambda: errors.OwnerMismatch(SID), {"sid": SID})],
    "UNAUTHENTICATED": [Case(errors.Unauthenticated, {})],
    "PERMISSION_DENIED": [Case(lambda: errors.PermissionDenied("No right"), {})],
    "METHOD_NOT_ALLOWED": [Case(errors.UnknownMethod, {})],
    "OVERLOADED": [
        Case(errors.Overloaded, {"scope": "service"}),
        Case(beyond_places, {"scope": "service"}),
        Case(lambda: beyond_share(ACCOUNT, streams_per_key=1), {"scope": "key", "limit": "1"}),
        Case(lambda: beyond_share(ACCOUNT, stream_share=0.5), {"scope": "account", "limit": "1"}),
        Case(lambda: beyond_share(ADMIN, call_share=0.5), {"scope": "key", "limit": "1"}),
        Case(lambda: beyond_waiting(ACCOUNT), {"scope": "account", "limit": "1"}),
        Case(
            lambda: beyond_share(ANONYMOUS, stream_share=0.5), {"scope": "anonymous", "limit": "1"}
        ),
        Case(unsent_of_account, {"scope": "account"}),
        Case(
            lambda: beyond_unsent(ACCOUNT, "other:0", held_by=1, bytes_of_each=MIB),
            {"scope": "connection"},
        ),
    ],
    "RATE_LIMITED": [
        Case(lambda: beyond_rate(ACCOUNT), {"scope": "account", "per_second": "1"}),
        Case(lambda: beyond_rate(ADMIN), {"scope": "key", "per_second": "1"}),
        Case(lambda: beyond_rate(ANONYMOUS), {"scope": "anonymous", "per_second": "1"}),
        Case(beyond_attempts, {"scope": "address", "per_second": "1"}),
    ],
    "STORE_FULL": [Case(errors.StoreFull, {})],
    "DEADLINE_EXCEEDED": [Case(errors.DeadlineExceeded, {})],
    "STREAM_IDLE": [Case(lambda: errors.StreamIdle(60), {"idle_seconds": "60"})],
    "UNAVAILABLE": [Case(lambda: errors.Unavailable("It can't be used"), {})],
    "AMBIGUOUS_ACCOUNT": [Case(errors.AmbiguousAccount, {})],
    "DATA_LOSS": [Case(errors.DataLoss, {})],
    "INTERNAL": [],  # its reference is random: see errors_of
}


class Documented(NamedTuple):
    """The documented code and metadata of a reason."""

    code: str
    metadata: set[str]


def of_the_docs() -> dict[str, Documented]:
    rows = re.findall(
        r"^\| ([A-Z_]+) \| `([A-Z_]+)` \| [^|]* \|([^|]*)\|$",
        (ROOT / "docs/grpc.md").read_text(),
        re.MULTILINE,
    )
    return {
        reason: Documented(code, set(re.findall(r"`(\w+)`", metadata)))
        for code, reason, metadata in rows
    }


class Comment(NamedTuple):
    """The content of a reason's comment in the protos."""

    code: str
    is_retried: bool
    example: dict[str, Any]


def of_the_protos() -> dict[str, Comment]:
    text = (ROOT / "protos/interaction_svc/v1/error_reason.proto").read_text()
    comments: dict[str, Comment] = {}
    for lines, name in re.findall(r"((?:^  //.*\n)+)  ERROR_REASON_(\w+) = [1-9]", text, re.M):
        comment = " ".join(line.strip().removeprefix("//").strip() for line in lines.splitlines())
        example = re.search(r"Example: `(\{.*\})`", comment)
        assert example, name
        comments[name] = Comment(
            comment.partition(":")[0], "RetryInfo" in comment, json.loads(example[1])
        )
    return comments


def errors_of(reason: str) -> list[tuple[ServiceError, dict[str, str]]]:
    if reason == "INTERNAL":
        error = errors.Internal()
        return [(error, {"reference": error.reference})]
    return [(case.error(), case.metadata) for case in CASES[reason]]


def details_of(error: ServiceError) -> dict[type[Message], Any]:
    found: dict[type[Message], Any] = {}
    for packed in status_of(error).details:
        for kind in (ErrorInfo, BadRequest, ResourceInfo, RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                found[kind] = kind()
                assert packed.Unpack(found[kind])
    return found


def test_each_reason_is_in_each_table() -> None:
    names = [name.removeprefix(PREFIX) for name in REASONS]
    for table in (CASES, of_the_docs(), of_the_protos()):
        assert sorted(table) == sorted(names)


@pytest.mark.parametrize("name", REASONS)
def test_errors_have_the_documented_metadata_and_details(name: str) -> None:
    reason = name.removeprefix(PREFIX)
    documented, comment = of_the_docs()[reason], of_the_protos()[reason]
    assert documented.code == comment.code
    shapes = []
    for error, metadata in errors_of(reason):
        status, details = status_of(error), details_of(error)
        info = details[ErrorInfo]
        assert (info.reason, info.domain) == (name, "interaction-svc")
        assert dict(info.metadata) == metadata
        codes = codes_of(type(error))
        assert codes.grpc_name == documented.code
        assert (status.code, status.message) == (codes.grpc, error.message)
        assert (RetryInfo in details) == comment.is_retried
        if comment.is_retried:
            seconds = details[RetryInfo].retry_delay.seconds
            assert seconds == error.retry_after_seconds
            assert seconds >= 1
        if "field" in metadata:
            assert details[BadRequest].field_violations[0].field == metadata["field"]
        shapes.append(set(metadata))
    assert set().union(*shapes) == documented.metadata
    assert comment.example["reason"] == name
    assert set(comment.example.get("metadata", {})) in shapes
