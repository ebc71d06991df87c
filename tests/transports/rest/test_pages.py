"""Pages over HTTP that are too large for one read from the store, or for memory."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from testing.build import NOON_US, SECOND_US, Parents, new_interaction, new_session
from testing.http1 import answers, connected, read_all
from testing.log_lines import logged
from testing.pipelines import open_pipeline
from testing.process import Served, served
from testing.requests import basic, record
from testing.stubs import Ingest
from testing.wait import wait_until

from interaction_svc.admission.response_backlog import ResponseBacklog
from interaction_svc.app.interactions import Interactions, Page
from interaction_svc.domain.errors import Unavailable
from interaction_svc.domain.principals import ANONYMOUS, Principal
from interaction_svc.domain.units import MIB
from interaction_svc.store import Store, row_of
from interaction_svc.store.factory import open_store
from interaction_svc.transports.address import Address
from interaction_svc.transports.http1.protocol import HttpLimits
from interaction_svc.transports.http1.server import HttpServer
from interaction_svc.transports.rest.app import create_app
from interaction_svc.transports.rest.responses import STREAM_BYTES, error_response
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.sqlite import files


def large(parents: Parents, count: int, data_bytes: int = 200_000) -> list[pb.Interaction]:
    """Return Interactions, oldest first; five fill a read from the store."""
    return [
        new_interaction(parents, NOON_US + n * SECOND_US, data="x" * data_bytes)
        for n in range(count)
    ]


async def record_large(ingest: Ingest, interactions: list[pb.Interaction]) -> list[str]:
    for start in range(0, len(interactions), 10):
        await record(ingest, *interactions[start : start + 10])
    return [interaction.sid for interaction in interactions]


def sids(page: dict[str, Any]) -> list[str]:
    return [row["sid"] for row in page["interactions"]]


async def test_a_page_has_the_requested_number_of_rows_of_any_size(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    interactions = new_session(parents, 1000)
    for interaction in interactions:
        interaction.data = json.dumps({"body": "語" * 2000}, ensure_ascii=False)
    for start in range(0, 1000, 250):
        await record(ingest, *interactions[start : start + 250])
    response = await http.get(f"{parents.path}?PageSize=1000")
    page = response.json()
    assert sids(page) == [interaction.sid for interaction in interactions]
    assert page["interactions"][-1]["data"] == interactions[-1].data
    assert page["meta"]["page_size"] == 1000
    assert page["meta"]["next_page_url"] is page["meta"]["previous_page_url"] is None


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_large_pages_link_to_each_other_in_both_directions(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents, order: str
) -> None:
    expected = await record_large(ingest, large(parents, 20))
    if order == "desc":
        expected.reverse()
    page = (await http.get(f"{parents.path}?PageSize=8&Order={order}")).json()
    assert page["meta"]["previous_page_url"] is None
    forward = [page]
    while link := page["meta"]["next_page_url"]:
        page = (await http.get(link)).json()
        assert page["meta"]["url"] == link
        forward.append(page)
    assert list(map(sids, forward)) == [expected[:8], expected[8:16], expected[16:]]
    for number in (1, 0):
        page = (await http.get(page["meta"]["previous_page_url"])).json()
        assert page["interactions"] == forward[number]["interactions"]
        assert page["meta"]["page"] == number
        assert sids((await http.get(page["meta"]["next_page_url"])).json()) == sids(
            forward[number + 1]
        )
    assert page["meta"]["previous_page_url"] is None


async def test_a_large_page_before_a_row_ends_at_the_beginning_of_the_list(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    expected = await record_large(ingest, large(parents, 14))
    page = (await http.get(f"{parents.path}?PageSize=12")).json()
    last = (await http.get(page["meta"]["next_page_url"])).json()
    link = last["meta"]["previous_page_url"].replace("PageSize=12", "PageSize=1000")
    page = (await http.get(link)).json()
    assert sids(page) == expected[:12]
    assert page["meta"]["previous_page_url"] is None
    assert sids((await http.get(page["meta"]["next_page_url"])).json()) == expected[12:]


async def test_after_a_large_page_the_connection_is_kept(
    server: Served, ingest: Ingest, parents: Parents
) -> None:
    expected = await record_large(ingest, large(parents, 8))
    headers = {"Authorization": basic(parents.account_sid)}
    with closing(http.client.HTTPConnection(server.base_url.rpartition("/")[2])) as connection:
        connection.connect()
        kept = connection.sock
        for method in ("GET", "HEAD", "GET"):
            connection.request(method, parents.path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200
            assert body == b"" if method == "HEAD" else sids(json.loads(body)) == expected
            assert connection.sock is kept


async def test_over_http_1_0_a_large_page_ends_with_the_connection(
    server: Served, ingest: Ingest, parents: Parents
) -> None:
    expected = await record_large(ingest, large(parents, 8))
    request = f"GET {parents.path} HTTP/1.0\r\nAuthorization: {basic(parents.account_sid)}\r\n\r\n"
    with connected(server) as opened:
        opened.sendall(request.encode())
        head, _, body = read_all(opened).partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"transfer-encoding" not in head
    assert sids(json.loads(body)) == expected


class Meddling(Interactions):
    """An application that calls a function before each read of a page except the first."""

    def __init__(self, store: Store, meanwhile: Callable[[int], Awaitable[object]]) -> None:
        super().__init__(store)
        self._meanwhile = meanwhile
        self.reads = 0
        self.asked: list[int] = []
        """The number of requested rows of each read."""

    async def page(self, *given: Any, **options: Any) -> Page:
        self.asked.append(given[1].page_size)
        if self.reads:
            await self._meanwhile(self.reads)
        self.reads += 1
        return await super().page(*given, **options)


@asynccontextmanager
async def meddled(
    folder: Path, rows: list[pb.Interaction], meanwhile: Callable[[Store, int], Awaitable[object]]
) -> AsyncIterator[tuple[Meddling, httpx.AsyncClient]]:
    """Serve these rows, and call `meanwhile` between two reads of a page."""
    store = await open_store(files.url(folder))
    await store.record([row_of(row) for row in rows])
    interactions = Meddling(store, lambda read: meanwhile(store, read))
    pipeline = open_pipeline(store)
    limits = HttpLimits(16_384, 100, header_timeout_seconds=10, connection_idle_seconds=10)
    server = HttpServer(
        lambda base_url: create_app(interactions, base_url, pipeline),
        Address("127.0.0.1", 0),
        base_url=None,
        limits=limits,
        render_error=error_response,
    )
    address = await server.start()
    try:
        async with httpx.AsyncClient(
            base_url=address.url("http"), auth=(rows[0].account_sid, "x"), trust_env=False
        ) as client:
            yield interactions, client
    finally:
        await server.drain(0)
        await store.close()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_response_that_fails_halfway_is_recognized_as_incomplete(
    tmp_path: Path, parents: Parents, encoding: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail(_: Store, read: int) -> None:
        if read == 2:
            raise Unavailable("The store can't be used at the moment")

    async with meddled(tmp_path, large(parents, 20), fail) as (interactions, client):
        async with client.stream(
            "GET", parents.path, headers={"Accept-Encoding": encoding}
        ) as response:
            assert response.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                await response.aread()
        interactions.reads = 0
        assert (await client.get(f"{parents.path}?PageSize=1")).status_code == 200
    logged = capfd.readouterr()
    assert "Traceback" not in logged.out + logged.err


async def test_an_error_before_the_first_row_is_an_error_response(
    tmp_path: Path, parents: Parents
) -> None:
    async def fail(_: Store, read: int) -> None:
        raise Unavailable("The store can't be used at the moment")

    async with meddled(tmp_path, large(parents, 20), fail) as (interactions, client):
        page = (await client.get(f"{parents.path}?PageSize=1")).json()  # the first read
        interactions.reads = 0
        second = (await client.get(page["meta"]["next_page_url"])).json()
        interactions.reads = 0
        link = second["meta"]["previous_page_url"]
        assert (await client.get(link)).status_code == 200
        assert (await client.get(link)).status_code == 503


@pytest.mark.parametrize("backward", [False, True])
async def test_a_large_page_reads_few_rows_more_than_it_sends(
    tmp_path: Path, parents: Parents, *, backward: bool
) -> None:
    rows = large(parents, 61)

    async def nothing(_: Store, read: int) -> None:
        pass

    async with meddled(tmp_path, rows, nothing) as (interactions, client):
        link = f"{parents.path}?PageSize=60"
        if backward:
            page = (await client.get(link)).json()
            page = (await client.get(page["meta"]["next_page_url"])).json()
            link = page["meta"]["previous_page_url"]
        interactions.asked.clear()
        page = (await client.get(link)).json()
    assert sids(page) == [row.sid for row in rows[:60]]
    first, *following = interactions.asked
    assert first == 60
    assert sum(following) <= 4 * 60  # at most twice the rows of a read, and twice that backward


async def test_rows_that_are_deleted_while_a_page_is_sent_are_left_out(
    tmp_path: Path, parents: Parents
) -> None:
    rows = large(parents, 12)

    async def delete(store: Store, read: int) -> None:
        for row in rows[7:]:
            await _delete(store, row)

    async with meddled(tmp_path, rows, delete) as (_, client):
        page = (await client.get(f"{parents.path}?PageSize=10")).json()
    assert sids(page) == [row.sid for row in rows[:7]]
    assert page["meta"]["next_page_url"] is None


async def test_rows_that_are_deleted_while_the_start_of_a_page_is_searched_are_left_out(
    tmp_path: Path, parents: Parents
) -> None:
    rows = large(parents, 12)
    deleting = False

    async def delete(store: Store, read: int) -> None:
        for row in rows[:6] if deleting else ():
            await _delete(store, row)

    async with meddled(tmp_path, rows, delete) as (_, client):
        page = (await client.get(f"{parents.path}?PageSize=11")).json()
        last = (await client.get(page["meta"]["next_page_url"])).json()
        deleting = True
        page = (await client.get(last["meta"]["previous_page_url"])).json()
    assert sids(page) == [row.sid for row in rows[6:11]]
    assert page["meta"]["previous_page_url"] is None
    assert page["meta"]["next_page_url"] is not None


async def _delete(store: Store, row: pb.Interaction) -> None:
    await Interactions(store).delete(
        Principal(row.account_sid, None, ANONYMOUS.rights),
        Parents(row.account_sid, row.service_sid, row.session_sid).key(row.sid),
        allow_missing=True,
    )


def filled(folder: Path, rows: list[pb.Interaction]) -> None:
    """Fill the store of a server that has not started yet."""

    async def fill() -> None:
        store = await open_store(files.url(folder))
        for start in range(0, len(rows), 100):
            await store.record([row_of(row) for row in rows[start : start + 100]])
        await store.close()

    asyncio.run(fill())


def test_a_page_of_any_size_is_sent_in_bounded_memory(tmp_path: Path, parents: Parents) -> None:
    filled(tmp_path, large(parents, 300, 250_000))
    with served(tmp_path) as server:
        headers = {"Authorization": basic(parents.account_sid), "Accept-Encoding": "identity"}

        def received(page_size: int) -> int:
            url = f"{server.base_url}{parents.path}?PageSize={page_size}"
            with httpx.stream("GET", url, headers=headers, trust_env=False) as response:
                return sum(map(len, response.iter_bytes()))

        received(100)  # so that SQLite's caches are full
        before = peak_mib(server)
        assert received(300) > 75_000_000
        assert peak_mib(server) - before < 48  # the response has 75 MB


def test_a_client_that_disconnects_ends_the_reads(tmp_path: Path, parents: Parents) -> None:
    filled(tmp_path, large(parents, 100, 250_000))
    with served(tmp_path) as server:
        with asking(server, parents) as opened:
            assert opened.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: bool(logged(server, "call", method="list", code="CANCELLED")))
        assert "Traceback" not in server.log.read_text()


def test_the_log_marks_a_response_that_was_cut_off(tmp_path: Path, parents: Parents) -> None:
    filled(tmp_path, large(parents, 100, 250_000))
    with served(tmp_path, "--deadline-seconds", "0.5") as server:
        with asking(server, parents) as opened:
            wait_until(lambda: bool(logged(server, "call", method="list")))
            assert not read_all(opened).endswith(b"0\r\n\r\n")
        path = f"{parents.path}?PageSize=1"
        assert httpx.get(
            f"{server.base_url}{path}",
            headers={"Authorization": basic(parents.account_sid)},
            trust_env=False,
        ).is_success
        wait_until(lambda: len(logged(server, "call", method="list")) == 2)
        cut, whole = logged(server, "call", method="list", code="200")
    assert cut["cut_off"] == "ERROR_REASON_DEADLINE_EXCEEDED"
    assert "cut_off" not in whole


def test_unread_large_pages_are_bounded(tmp_path: Path, parents: Parents) -> None:
    filled(tmp_path, large(parents, 100, 250_000))
    held = ResponseBacklog.MAX_BYTES_AN_ACCOUNT // (STREAM_BYTES + ResponseBacklog.OVERHEAD_BYTES)
    with served(tmp_path) as server:
        before = peak_mib(server)
        opened = [asking(server, parents) for _ in range(held + 20)]
        try:
            wait_until(lambda: len(logged(server, "call", method="list", code="429")) >= 20)
            assert peak_mib(server) - before < ResponseBacklog.MAX_BYTES_AN_ACCOUNT // MIB
            with asking(server, parents, close=True) as one_more:
                (refusal,) = answers(read_all(one_more))
            assert (refusal.status, refusal.headers["retry-after"]) == (429, "1")
            assert httpx.get(f"{server.base_url}/readyz", trust_env=False).status_code == 200
        finally:
            for each in opened:
                each.close()
        wait_until(lambda: len(logged(server, "call", code="CANCELLED")) == held)
        small = f"{server.base_url}{parents.path}?PageSize=1"
        assert httpx.get(small, auth=(parents.account_sid, "x"), trust_env=False).is_success


def asking(server: Served, parents: Parents, *, close: bool = False) -> socket.socket:
    """Request a large page on a new connection, and read nothing."""
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.settimeout(30)
    host, _, port = server.base_url.rpartition("/")[2].rpartition(":")
    opened.connect((host, int(port)))
    more = "Connection: close\r\n" if close else ""
    opened.sendall(
        f"GET {parents.path}?PageSize=1000 HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {basic(parents.account_sid)}\r\n{more}\r\n".encode()
    )
    return opened


def peak_mib(server: Served) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
