"""The cost of reads, compared with an empty RPC or route and with rivals in the same run.

Every contender gets the same requests, in alternating rounds. The cost is the processor time of the
server's process for each request. Over gRPC the service runs twice, once on each engine, with one
store. Before the measurement all contenders must return the same
responses. During the measurement a response of another length counts as a failure.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format
from testing import http2
from testing.api_keys import IssuedKey, basic, new_key
from testing.build import Parents, new_interaction, new_parents, new_session
from testing.process import Served, served
from testing.requests import get_request, list_request

from bench import http_load, load
from bench.processes import GO_RIVAL, H2CORN, cpu_seconds, python, rival
from bench.rivals import copy_db, fastapi_app
from bench.rivals.agree import (
    DisagreementError,
    GrpcServer,
    RestServer,
    agree_grpc,
    agree_rest,
)
from bench.rivals.answers import write_answers
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.interaction_pb2 import Interaction

SIZES = (10, 50, 200, 1000)
"""The page sizes. All but 200 have targets."""
GET = "Get"
EMPTY = "empty"
OURS = "interaction-svc"
"""The service. Over gRPC it runs on the engine grpcio, the default."""
ON_H2CORN = "interaction-svc, h2corn"
PLAIN = "plain Python"
GO = "plain Go"
FASTAPI = "FastAPI"
CONNECT = "interaction-svc, Connect JSON"
AT_ONCE = 16
"""Concurrent requests."""
AT_ONCE_LARGE = 4
"""Concurrent requests for pages of 1,000, so that the client is not the bottleneck."""
_LARGE = 1000
_CONNECTIONS = 4
GETS = 200
_OTHERS = 20_000
_SERVICE = "/interaction_svc.v1.InteractionService/"
_RECORDS = "/interaction_svc.v1.IngestService/RecordInteractions"

_FASTAPI_KEY = basic(fastapi_app.USER, fastapi_app.PASSWORD)
_Run = Callable[..., tuple[int, str]]
"""A function that starts a module as a rival, and returns its process ID and its address."""
Costs = dict[tuple[str, str], list[float]]
"""By case and contender, the microseconds of a request in each round."""


def case_of(size: int) -> str:
    """Return the name of the case of a page size."""
    return f"List {size}"


CASES = (GET, *map(case_of, SIZES))
UNSEEN = f"{case_of(_LARGE)} of uncached rows"
"""The case of rows whose JSON is not in the cache of REST."""


class Contender(NamedTuple):
    """A server and the requests that it is measured with."""

    name: str
    pid: int
    address: str
    requests: dict[str, tuple[Any, ...]]


class Stored(NamedTuple):
    """A running service with rows: a Session of 1,200 Interactions, and other Sessions."""

    server: Served
    key: IssuedKey
    parents: Parents
    read: list[Interaction]
    others: list[Parents]
    """Sessions of 1,000 each, together more than the JSON cache of REST holds."""


def read_costs(rounds: int, seconds: float) -> tuple[Costs, Costs]:
    """Measure reads over gRPC and over REST, `seconds` for each case of each contender."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stored = stack.enter_context(serve_rows(folder))
        theirs = folder / "rivals.db"
        copy_db.copy(stored.server.store, theirs)

        def run(module: str, *arguments: str) -> tuple[int, str]:
            return stack.enter_context(rival(*python(module, *arguments)))

        over_grpc = _grpc_contenders(stack, run, folder, stored, theirs)
        over_rest = _rest_contenders(run, folder, stored, theirs)
        return _measured(over_grpc, rounds, seconds), _measured(over_rest, rounds, seconds)


class Rows(NamedTuple):
    """Interactions to record: a Session of 1,200, among 20 others of 1,000."""

    parents: Parents
    session: list[Interaction]
    others: list[Parents]
    made: list[Interaction]
    """All Interactions, in the order in which they are recorded."""


def make_rows() -> Rows:
    """Return new rows. Those of the Session are scattered, as in production."""
    parents = new_parents()
    session = new_session(parents, max(SIZES) + 200)
    others = [parents._replace(session_sid=new_parents().session_sid) for _ in range(20)]
    made = []
    for number in range(_OTHERS):
        made.append(new_interaction(others[number % len(others)]))
        if number * len(session) % _OTHERS < len(session):
            made.append(session[number * len(session) // _OTHERS])
    return Rows(parents, session, others, made)


@contextmanager
def serve_rows(folder: Path, *flags: str) -> Iterator[Stored]:
    """Serve a store with rows until the end of the block."""
    rows = make_rows()
    account_sid = rows.parents.account_sid
    key = new_key(folder / "interactions.db", "read", account_sid)
    writer = new_key(folder / "interactions.db", "ingest", account_sid)
    with served(folder, *flags) as server:
        record(server.grpc_address, writer, rows.made)
        yield Stored(server, key, rows.parents, rows.session[:GETS], rows.others)


@contextmanager
def serve_same(server: Served, folder: Path, engine: str, *flags: str) -> Iterator[Served]:
    """Serve the store of another server from a second process, on an engine of gRPC."""
    own = folder / engine
    own.mkdir()
    store = f"sqlite:///{server.store}"
    with served(own, "--store", store, "--grpc-engine", engine, *flags) as beside:
        yield beside


def record(address: str, key: IssuedKey, made: Sequence[Interaction]) -> None:
    """Record Interactions over gRPC."""
    batches = (
        ingest_pb.RecordInteractionsRequest(interactions=made[begin : begin + 1000])
        for begin in range(0, len(made), 1000)
    )
    with grpc.insecure_channel(address) as channel:
        stream: Any = channel.stream_unary(_RECORDS)
        answer = stream(
            (batch.SerializeToString() for batch in batches),
            metadata=(("authorization", key.bearer),),
        )
    counts = ingest_pb.RecordInteractionsResponse.FromString(answer)
    assert counts.created == len(made)


def _grpc_contenders(
    stack: ExitStack, run: _Run, folder: Path, stored: Stored, theirs: Path
) -> list[Contender]:
    metadata = (("authorization", stored.key.bearer),)
    asked: dict[str, list[Any]] = {GET: list(map(get_request, stored.read))}
    for size in SIZES:
        asked[case_of(size)] = [list_request(stored.parents, page_size=size)]
    ours = stored.server.grpc_address
    on_h2corn = stack.enter_context(serve_same(stored.server, folder, H2CORN))
    everything = [request for requests in asked.values() for request in requests]
    by_request = {
        request.SerializeToString(): grpc_answer(ours, request, metadata) for request in everything
    }
    for request in everything:
        answer = grpc_answer(on_h2corn.grpc_address, request, metadata)
        if answer != by_request[request.SerializeToString()]:
            raise DisagreementError(f"The engines answer a {type(request).__name__} differently")
    answers = folder / "grpc.answers"
    write_answers(answers, by_request)
    found = [
        (EMPTY, *run("bench.rivals.empty_grpc", "--answers", str(answers))),
        (OURS, stored.server.process.pid, ours),
        (ON_H2CORN, on_h2corn.process.pid, on_h2corn.grpc_address),
        (PLAIN, *run("bench.rivals.plain_grpc", "--db", str(theirs))),
    ]
    if GO_RIVAL.exists():
        command = (str(GO_RIVAL), "-db", str(theirs))
        found.append((GO, *stack.enter_context(rival(*command))))
    contenders = []
    for name, pid, address in found:
        if name not in (OURS, ON_H2CORN):
            agree_grpc(GrpcServer(ours, metadata), GrpcServer(address), everything)
        requests = {
            case: tuple(grpc_request(address, request, metadata) for request in requests)
            for case, requests in asked.items()
        }
        contenders.append(Contender(name, pid, address, requests))
    return contenders


def _rest_contenders(run: _Run, folder: Path, stored: Stored, theirs: Path) -> list[Contender]:
    header = header_of(stored.key.basic)
    asked = {GET: [f"{stored.parents.path}/{read.sid}" for read in stored.read]}
    for size in SIZES:
        asked[case_of(size)] = [f"{stored.parents.path}?PageSize={size}"]
    asked[UNSEEN] = [f"{each.path}?PageSize={_LARGE}" for each in stored.others]
    ours = stored.server.base_url.removeprefix("http://")
    everything = [path for paths in asked.values() for path in paths]
    answers = folder / "rest.answers"
    write_answers(answers, {path.encode(): rest_body(ours, path, header) for path in everything})
    found = [
        (EMPTY, header, *run("bench.rivals.empty_http", "--answers", str(answers))),
        (OURS, header, stored.server.process.pid, ours),
        (FASTAPI, header_of(_FASTAPI_KEY), *run("bench.rivals.fastapi_app", "--db", str(theirs))),
    ]
    contenders = []
    for name, shown, pid, address in found:
        if name != OURS:
            agree_rest(
                RestServer(f"http://{ours}", stored.key.basic),
                RestServer(f"http://{address}", shown.partition(": ")[2]),
                everything,
            )
        requests = {
            case: tuple(rest_request(address, path, shown) for path in paths)
            for case, paths in asked.items()
        }
        contenders.append(Contender(name, pid, address, requests))
    contenders.append(_connect_contender(stored))
    return contenders


def _connect_contender(stored: Stored) -> Contender:
    """Return this service, asked for the same over Connect as JSON."""
    lists: dict[str, list[Any]] = {
        case_of(size): [list_request(stored.parents, page_size=size)] for size in SIZES
    }
    lists[UNSEEN] = [list_request(each, page_size=_LARGE) for each in stored.others]
    asked = {GET: list(map(get_request, stored.read))} | lists
    address = stored.server.base_url.removeprefix("http://")
    header = header_of(stored.key.basic)
    requests = {
        case: tuple(connect_request(address, request, header) for request in of_case)
        for case, of_case in asked.items()
    }
    return Contender(CONNECT, stored.server.process.pid, address, requests)


def connect_request(address: str, request: Any, header: str) -> http_load.HttpRequest:
    """Return a call over Connect, with the length of its response from this server."""
    body = json_format.MessageToJson(request, indent=None).encode()
    sent = http_load.post(method_of(request), body, header)
    status, response = asyncio.run(http_load.fetch(address, sent))
    if status != 200:
        raise RuntimeError(f"{address}{method_of(request)}: {status}")
    return http_load.HttpRequest(sent, len(response))


def header_of(authorization: str) -> str:
    """Return the header line of credentials."""
    return f"Authorization: {authorization}"


def _measured(contenders: Sequence[Contender], rounds: int, seconds: float) -> Costs:
    costs: Costs = {}
    for number in range(rounds + 1):  # the first one warms up
        for case in contenders[0].requests:
            for contender in contenders:
                cost = cost_of(contender, case, seconds if number else seconds / 4)
                if number:
                    costs.setdefault((case, contender.name), []).append(cost)
    return costs


def cost_of(contender: Contender, case: str, seconds: float) -> float:
    """Return the processor time of the server for a request of a case, in microseconds.

    Raises RuntimeError if a request fails.
    """
    requests = contender.requests[case]
    at_once = AT_ONCE_LARGE if case.startswith(case_of(_LARGE)) else AT_ONCE
    before = cpu_seconds(contender.pid)
    if isinstance(requests[0], load.Request):
        grpc_load = load.Load(contender.address, requests, seconds, _CONNECTIONS, at_once=at_once)
        answered = load.run(grpc_load)
        served_, failed = len(answered.ok), sum(map(len, answered.refused.values()))
    else:
        http_requests = http_load.HttpLoad(
            contender.address, requests, seconds, at_once, in_turn=case == UNSEEN
        )
        http = http_load.run(http_requests)
        served_, failed = len(http.ok), sum(http.failed.values())
    if failed or not served_:
        raise RuntimeError(f"{contender.name}, {case}: {failed} of {failed + served_} failed")
    return (cpu_seconds(contender.pid) - before) / served_ * 1e6


def grpc_request(address: str, request: Any, metadata: http2.Pairs) -> load.Request:
    """Return a call, with the length of its response from this server."""
    return load.Request(
        http2.call_headers(method_of(request), metadata),
        http2.message(request.SerializeToString()),
        len(grpc_answer(address, request, metadata)),
    )


def rest_request(address: str, path: str, header: str) -> http_load.HttpRequest:
    """Return a GET, with the length of its body from this server."""
    return http_load.HttpRequest(http_load.get(path, header), len(rest_body(address, path, header)))


def method_of(request: Any) -> str:
    """Return the gRPC method that takes a request."""
    return _SERVICE + type(request).__name__.removesuffix("Request")


def grpc_answer(address: str, request: Any, metadata: http2.Pairs) -> bytes:
    """Return the bytes of a response over gRPC."""
    with grpc.insecure_channel(address) as channel:
        ask: Any = channel.unary_unary(method_of(request))
        answer: bytes = ask(request.SerializeToString(), metadata=metadata)
        return answer


def rest_body(address: str, path: str, header: str) -> bytes:
    """Return the body of a response over REST. Raises RuntimeError unless it is a 200."""
    status, body = asyncio.run(http_load.fetch(address, http_load.get(path, header)))
    if status != 200:
        raise RuntimeError(f"{address}{path}: {status}")
    return body
