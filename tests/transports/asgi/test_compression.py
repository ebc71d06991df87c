"""Compression of HTTP responses for clients that accept it."""

import zlib

import httpx
import pytest
from testing.build import Parents, new_session
from testing.process import Served
from testing.requests import record
from testing.stubs import Ingest

from interaction_svc.transports.asgi.compression import accepts_gzip

IDENTITY = {"Accept-Encoding": "identity"}
GZIP = {"Accept-Encoding": "gzip"}


async def raw(http: httpx.AsyncClient, path: str, headers: dict[str, str]) -> httpx.Response:
    """Return a response with its body undecoded."""
    async with http.stream("GET", path, headers=headers) as response:
        response._content = b"".join([piece async for piece in response.aiter_raw()])
    return response


@pytest.mark.parametrize("rows", [2, 50, 1000], ids=["on the loop", "still", "on a thread"])
async def test_a_client_that_accepts_gzip_gets_a_compressed_page(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents, rows: int
) -> None:
    await record(ingest, *new_session(parents, rows))
    path = f"{parents.path}?PageSize=1000"
    plain, packed = await raw(http, path, IDENTITY), await raw(http, path, GZIP)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    for response in (plain, packed):
        assert response.headers["vary"] == "accept-encoding"
        assert int(response.headers["content-length"]) == len(response.content)
    assert zlib.decompress(packed.content, wbits=31) == plain.content
    assert len(packed.content) < len(plain.content) / 2


async def test_a_page_that_is_sent_in_parts_is_compressed(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    interactions = new_session(parents, 10)
    for interaction in interactions:
        interaction.data = "x" * 200_000
    await record(ingest, *interactions)
    plain, packed = await raw(http, parents.path, IDENTITY), await raw(http, parents.path, GZIP)
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.headers["transfer-encoding"] == packed.headers["transfer-encoding"] == "chunked"
    assert zlib.decompress(packed.content, wbits=31) == plain.content
    assert len(packed.content) < 50_000


async def test_small_responses_are_not_compressed(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    (interaction,) = new_session(parents, 1)
    await record(ingest, interaction)
    for path in (f"{parents.path}/{interaction.sid}", f"{parents.path}?PageSize=1"):
        response = await raw(http, path, GZIP)
        assert "content-encoding" not in response.headers
        assert response.headers["vary"] == "accept-encoding"
        assert response.json()


async def test_the_openapi_document_is_compressed(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        response = await raw(client, "/openapi.json", GZIP)
    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ([], False),
        ([""], False),
        (["gzip"], True),
        (["GZip"], True),
        (["x-gzip"], True),
        (["gzip, deflate, br"], True),
        (["deflate, br"], False),
        (["br;q=1.0, gzip;q=0.8, *;q=0.1"], True),
        (["gzip;q=0"], False),
        (["gzip;q=0.000, *"], False),
        (["*"], True),
        (["*;q=0"], False),
        (["identity"], False),
        (["identity, gzip;q=0.5"], False),
        (["gzip;q=0.5, identity;q=0.5"], True),
        (["identity;q=0, gzip;q=0.1"], True),
        (["gzip ; q=0.5"], True),
        (["gzip;q=high"], False),
        (["gzip;q=nan"], False),
        (["gzip;level=9"], True),
        (["gzippy"], False),
        (["deflate", "gzip"], True),
        (["\xff, gzip"], True),
    ],
)
def test_accept_encoding_decides_on_gzip(accepted: list[str], expected: bool) -> None:
    headers = [(b"accept-encoding", value.encode("latin-1")) for value in accepted]
    assert accepts_gzip({"headers": [(b"host", b"x"), *headers]}) is expected
