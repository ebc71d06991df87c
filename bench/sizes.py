"""The cost of a Get in tables of several sizes, and of the last page of a long list."""

import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from testing import http2
from testing.api_keys import IssuedKey, new_key
from testing.build import NOON_US, Parents, new_interaction, new_parents
from testing.process import Served, served
from testing.requests import list_request

from bench import load
from bench.processes import cpu_seconds
from bench.writing import Ratio
from interaction_svc.app.page_tokens import PageTokens
from interaction_svc.domain.paging import Cursor, Position
from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.rows import Row, row_of
from interaction_svc.store.sqlite import writes
from interaction_svc.store.sqlite.connection import connect
from interaction_svc.store.sqlite.transactions import transaction
from interaction_svc.v1 import interaction_service_pb2 as pb

ROWS_A_SESSION = 100
PAGE = 50
ASKED = 10_000
"""The number of different Interactions that are requested."""
_AT_ONCE = 16
_CONNECTIONS = 4
_BATCH = 10_000
_GET = "/interaction_svc.v1.InteractionService/GetInteraction"
_LIST = "/interaction_svc.v1.InteractionService/ListInteractions"


def by_table_size(
    rounds: int, seconds: float, table_sizes: tuple[int, ...]
) -> dict[int, list[float]]:
    """Return the processor time of a Get in each round, in microseconds, by table size in rows.

    The rows of the tables' Sessions are interleaved. Requests are random.
    """
    costs: dict[int, list[float]] = {size: [] for size in table_sizes}
    with ExitStack() as stack:
        loads = {}
        for size in table_sizes:
            account = new_parents().account_sid
            count = size // ROWS_A_SESSION
            sessions = [new_parents(account_sid=account) for _ in range(count)]
            server, key, asked = stack.enter_context(_filled(sessions, size))
            requests = tuple(_request(_GET, key, get, answer) for get, answer in asked)
            loads[size] = (server, requests)
        for number in range(rounds + 1):
            for size, (server, requests) in loads.items():
                cost = _cost(server, requests, seconds)
                if number:  # the first one warms up
                    costs[size].append(cost)
    return costs


def by_page(rounds: int, seconds: float, rows: int = 100_000) -> list[Ratio]:
    """Measure the last and the first page of a Session of `rows` rows, in microseconds."""
    parents = new_parents()
    with _filled([parents], rows) as (server, key, _):
        end = Position(NOON_US + rows - PAGE - 1, "KI" + "f" * 32)  # after all rows of that time
        order = pb.ListInteractionsRequest.ORDER_CREATED_ASC
        tokens = PageTokens(*_list_of(parents), order, b"")
        first = list_request(parents, page_size=PAGE)
        last = list_request(parents, page_size=PAGE, page_token=tokens.encode(Cursor(end)))
        requests = []
        for asked in (first, last):
            answer = _answer(server, _LIST, key, asked)
            page = pb.ListInteractionsResponse.FromString(answer)
            assert len(page.interactions) == PAGE
            assert bool(page.next_page_token) == (asked is first)
            requests.append((_request(_LIST, key, asked, answer),))
        measured = [
            (_cost(server, requests[1], seconds), _cost(server, requests[0], seconds))
            for _ in range(rounds + 1)
        ]
        return [Ratio(of_last, of_first) for of_last, of_first in measured[1:]]


@contextmanager
def _filled(
    sessions: list[Parents], rows: int
) -> Iterator[tuple[Served, IssuedKey, list[tuple[Any, bytes]]]]:
    """Serve a store of `rows` rows. Yield the server, a key, and requests with their responses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = folder / "interactions.db"
        key = new_key(store, "read", sessions[0].account_sid)  # creates the store
        db = connect(store)
        try:
            asked = _fill(db, sessions, rows)
        finally:
            db.close()
        with served(folder) as server:
            get, expected = asked[0]
            assert _answer(server, _GET, key, get) == expected
            yield server, key, asked


def _fill(db: sqlite3.Connection, sessions: list[Parents], rows: int) -> list[tuple[Any, bytes]]:
    """Record rows a microsecond apart, of the Sessions in turn."""
    asked = []
    template = row_of(new_interaction(sessions[0]))
    for begin in range(0, rows, _BATCH):
        made = [
            _row(template, sessions[number % len(sessions)], number)
            for number in range(begin, min(begin + _BATCH, rows))
        ]
        with transaction(db):
            writes.record(db, made)
        for row in made[:: max(1, rows // ASKED)]:
            get = pb.GetInteractionRequest(
                service_sid=row.service_sid, session_sid=row.session_sid, sid=row.sid
            )
            asked.append((get, row.frame))
    return asked


def _row(template: Row, parents: Parents, number: int) -> Row:
    """Return a copy of the template with other SIDs and times; the frame gets only the SIDs."""
    row = template._replace(
        sid=f"KI{secrets.token_hex(16)}",
        session_sid=parents.session_sid,
        service_sid=parents.service_sid,
        created_us=NOON_US + number,
        updated_us=NOON_US + number,
    )
    frame = template.frame
    for name in ("sid", "session_sid", "service_sid"):
        frame = frame.replace(getattr(template, name).encode(), getattr(row, name).encode())
    return row._replace(frame=frame, checksum=checksum_of(frame))


def _list_of(parents: Parents) -> tuple[str, str, str]:
    return parents.service_sid, parents.session_sid, parents.account_sid


def _cost(server: Served, requests: tuple[load.Request, ...], seconds: float) -> float:
    before = cpu_seconds(server.process.pid)
    answered = load.run(
        load.Load(server.grpc_address, requests, seconds, _CONNECTIONS, at_once=_AT_ONCE)
    )
    assert answered.ok
    assert not answered.refused
    return (cpu_seconds(server.process.pid) - before) / len(answered.ok) * 1e6


def _request(method: str, key: IssuedKey, asked: Any, answer: bytes) -> load.Request:
    headers = http2.call_headers(method, (("authorization", key.bearer),))
    return load.Request(headers, http2.message(asked.SerializeToString()), len(answer))


def _answer(server: Served, method: str, key: IssuedKey, asked: Any) -> bytes:
    with grpc.insecure_channel(server.grpc_address) as channel:
        ask: Any = channel.unary_unary(method)
        answer: bytes = ask(asked.SerializeToString(), metadata=(("authorization", key.bearer),))
        return answer
