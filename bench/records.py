"""Records to write, and a service to write them to."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from sqlite3 import connect
from typing import Any

import grpc
from testing import http2
from testing.api_keys import IssuedKey, new_key
from testing.build import NOON_US, Parents, new_interaction, new_parents
from testing.process import Served, served

from bench.load import Request
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb

BATCH = 1000
WARM_ROWS = 5_000
"""Rows that are streamed before a stream counts as begun."""
SESSIONS = 50
"""The number of Sessions in a batch."""

_RECORD = "/interaction_svc.v1.IngestService/RecordInteraction"
_STREAM = "/interaction_svc.v1.IngestService/RecordInteractions"
_MARK = "c0ffee00"
"""A placeholder in SIDs that is replaced by other digits in each batch or request."""
_ODD = 0x9E3779B1


@contextmanager
def writable(
    *flags: str, env: dict[str, str] | None = None
) -> Iterator[tuple[Served, IssuedKey, str]]:
    """Serve, and yield the server, a key of the role ingest, and the key's account."""
    account = new_parents().account_sid
    with tempfile.TemporaryDirectory(dir=_disk()) as name:
        folder = Path(name)
        key = new_key(folder / "interactions.db", "ingest", account)
        with served(folder, *flags, env=env) as server:
            yield server, key, account


def _disk() -> Path:
    """Return a folder on a disk: files in memory have no flushes."""
    folder = Path(tempfile.gettempdir()).resolve()
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    under = [(where, kind) for _, where, kind, *_ in mounts if folder.is_relative_to(where)]
    return Path.cwd() if max(under)[1] == "tmpfs" else folder


def record_requests(account: str, key: IssuedKey, count: int) -> Iterator[Request]:
    """Yield requests that each record one new Interaction, of SESSIONS new Sessions in turn."""
    templates = [
        request_of(
            _RECORD, key, ingest_pb.RecordInteractionRequest(interaction=made).SerializeToString()
        )
        for made in _marked([new_parents(account_sid=account) for _ in range(SESSIONS)], SESSIONS)
    ]
    for number, digits in enumerate(_digits(count)):
        template = templates[number % len(templates)]
        yield template._replace(data=template.data.replace(_MARK.encode(), digits))


def batches_of(account: str, count: int) -> Iterator[bytes]:
    """Yield requests of a bulk stream: new Interactions, of SESSIONS new Sessions in turn.

    To save time, a batch is a copy of the same bytes with other digits in the SIDs.
    """
    sessions = [
        parents._replace(session_sid=parents.session_sid[:-8] + _MARK)
        for parents in (new_parents(account_sid=account) for _ in range(SESSIONS))
    ]
    template = ingest_pb.RecordInteractionsRequest(
        interactions=_marked(sessions, BATCH)
    ).SerializeToString()
    for digits in _digits(count):
        yield template.replace(_MARK.encode(), digits)


def _marked(sessions: list[Parents], count: int) -> Iterator[Any]:
    for number in range(count):
        made = new_interaction(sessions[number % len(sessions)], NOON_US + number * 1000)
        made.sid = f"KI{_MARK}{made.sid[10:]}"
        yield made


def _digits(count: int) -> Iterator[bytes]:
    """Yield different digits in an order that is not sequential."""
    for number in range(count):
        yield b"%08x" % (number * _ODD % 2**32)


def request_of(method: str, key: IssuedKey, data: bytes) -> Request:
    """Return a prepared call."""
    return Request(http2.call_headers(method, metadata_of(key)), http2.message(data))


def metadata_of(key: IssuedKey) -> tuple[tuple[str, str], ...]:
    """Return the metadata with a key's credentials."""
    return (("authorization", key.bearer),)


def stream(address: str, key: IssuedKey, batches: Iterable[bytes]) -> int:
    """Stream batches, and return the number of Interactions. Check that all are new."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.stream_unary(_STREAM)
        answer = call(iter(batches), metadata=metadata_of(key))
    counts = ingest_pb.RecordInteractionsResponse.FromString(answer)
    assert counts == ingest_pb.RecordInteractionsResponse(created=counts.created), counts
    return counts.created


@contextmanager
def ingesting(server: Served, key: IssuedKey, account: str) -> Iterator[None]:
    """Stream at full speed during the block, from another process."""
    spawning = get_context("spawn")
    over, begun = spawning.Event(), spawning.Event()
    before = rows_in(server.store)
    process = spawning.Process(
        target=_stream_until, args=(server.grpc_address, key, account, begun, over)
    )
    process.start()
    try:
        assert begun.wait(30)
        yield
        assert process.is_alive()
    finally:
        over.set()
        process.join()
    assert process.exitcode == 0
    assert rows_in(server.store) > before


def _stream_until(address: str, key: IssuedKey, account: str, begun: Event, over: Event) -> None:
    def batches() -> Iterator[bytes]:
        for number, batch in enumerate(batches_of(account, 2**32)):
            if over.is_set():
                return
            if number == WARM_ROWS // BATCH:
                begun.set()
            yield batch

    stream(address, key, batches())


def rows_in(store: Path) -> int:
    """Return the number of rows."""
    return content_of(store)[0]


def content_of(store: Path) -> tuple[int, int]:
    """Return the number of rows, and the bytes of their frames."""
    db = connect(store)
    try:
        count, size = db.execute(
            "SELECT count(*), total(length(frame)) FROM interactions"
        ).fetchone()
        return count, int(size)
    finally:
        db.close()
