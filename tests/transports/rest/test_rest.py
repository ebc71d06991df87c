"""The REST API, over HTTP against a served process."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from testing.build import (
    NOON_US,
    SECOND_US,
    Parents,
    new_interaction,
    new_leg,
    new_session,
    new_sid,
)
from testing.pipelines import open_pipeline
from testing.process import Served, served
from testing.requests import basic, record
from testing.rest_errors import assert_error
from testing.stubs import Ingest

from interaction_svc.app.interactions import Interactions
from interaction_svc.codec.twilio_json import to_json
from interaction_svc.domain.errors import Overloaded, PermissionDenied, Unavailable
from interaction_svc.store.factory import open_store
from interaction_svc.transports.rest.app import create_app
from interaction_svc.v1 import interaction_pb2 as pb
from tests.store.sqlite import files

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def not_found(path: str) -> str:
    return re.escape(f"The requested resource {path.removeprefix('/v1')} was not found")


async def test_fetch(
    http: httpx.AsyncClient, server: Served, ingest: Ingest, parents: Parents
) -> None:
    interaction = new_interaction(parents, NOON_US + 999_999, data='{"body":"žluťoučký 🐎"}')
    await record(ingest, interaction)
    path = f"{parents.path}/{interaction.sid}"
    response = await http.get(path, headers=FORM)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == to_json(interaction, server.base_url)
    assert response.json()["date_created"] == "2026-02-14T12:00:00Z"
    assert response.json()["url"] == f"{server.base_url}{path}"


async def test_every_response_has_the_vendors_headers(http: httpx.AsyncClient) -> None:
    ids = set()
    for method, path in (("GET", "/v1/x"), ("POST", "/"), ("GET", "/v1/Services")):
        response = await http.request(method, path)
        ids.add(response.headers["twilio-request-id"])
        assert re.fullmatch(r"\d+\.\d{3}", response.headers["twilio-request-duration"])
        assert "server" not in response.headers
    assert len(ids) == 3
    assert all(re.fullmatch("RQ[0-9a-f]{32}", request_id) for request_id in ids)


async def test_list_pages_in_both_directions_by_its_links(
    http: httpx.AsyncClient, server: Served, ingest: Ingest, parents: Parents
) -> None:
    interactions = new_session(parents, 25)
    await record(ingest, *interactions)
    expected = [interaction.sid for interaction in interactions]
    url = f"{server.base_url}{parents.path}"
    page = (await http.get(f"{parents.path}?PageSize=10")).json()
    assert page["meta"]["url"] == page["meta"]["first_page_url"] == f"{url}?PageSize=10&Page=0"
    assert page["meta"]["previous_page_url"] is None
    pages = [page]
    while page["meta"]["next_page_url"]:
        link = page["meta"]["next_page_url"]
        assert re.fullmatch(
            re.escape(url) + rf"\?PageSize=10&Page={len(pages)}&PageToken=[A-Za-z0-9_-]+", link
        )
        page = (await http.get(link)).json()
        assert page["meta"]["url"] == link
        pages.append(page)
    assert [page["meta"]["page"] for page in pages] == [0, 1, 2]
    assert [row["sid"] for page in pages for row in page["interactions"]] == expected
    for number in (1, 0):
        page = (await http.get(page["meta"]["previous_page_url"])).json()
        assert page["interactions"] == pages[number]["interactions"]
        assert page["meta"]["page"] == number
    assert page["meta"]["previous_page_url"] is None
    assert set(page["meta"]) == {
        "first_page_url", "key", "next_page_url", "page", "page_size", "previous_page_url", "url",
    }  # fmt: skip
    assert page["meta"]["key"] == "interactions"
    assert set(page) == {"interactions", "meta"}


async def test_an_empty_list_has_an_envelope(http: httpx.AsyncClient, parents: Parents) -> None:
    body = (await http.get(parents.path)).json()
    assert body["interactions"] == []
    assert body["meta"]["next_page_url"] is None
    assert body["meta"]["page_size"] == 50


async def test_an_empty_page_has_a_previous_link_and_no_next_link(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    interactions = new_session(parents, 4)
    await record(ingest, *interactions)
    link = (await http.get(f"{parents.path}?PageSize=2")).json()["meta"]["next_page_url"]
    for interaction in interactions[2:]:
        await http.delete(f"{parents.path}/{interaction.sid}")
    empty = (await http.get(link)).json()
    assert empty["interactions"] == []
    assert empty["meta"]["next_page_url"] is None
    back = (await http.get(empty["meta"]["previous_page_url"])).json()
    assert [row["sid"] for row in back["interactions"]] == [row.sid for row in interactions[:2]]


async def test_links_of_a_page_keep_order_and_filters(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    leg = new_leg(pb.RESOURCE_STATUS_IN_PROGRESS)
    wanted = [
        new_interaction(
            parents, NOON_US + n * SECOND_US, type=pb.INTERACTION_TYPE_VOICE, outbound=leg
        )
        for n in range(7)
    ]
    await record(ingest, *wanted, *new_session(parents, 5))
    query = {
        "Order": "desc",
        "Type": "Voice",
        "DateCreatedAtOrAfter": "2026-02-14T13:00:01+01:00",
        "DateCreatedBefore": "2026-02-14T12:00:06Z",
        "ParticipantSid": leg.participant_sid,
        "ResourceSid": leg.resource_sid,
        "ResourceStatus": "in-progress",
    }
    page = (await http.get(parents.path, params={**query, "PageSize": "2"})).json()
    seen = page["interactions"]
    while link := page["meta"]["next_page_url"]:
        page = (await http.get(link)).json()
        seen += page["interactions"]
        given = dict(httpx.URL(page["meta"]["previous_page_url"]).params)
        assert {name: given[name] for name in query} == query
    assert [row["sid"] for row in seen] == [row.sid for row in wanted[5:0:-1]]
    back = (await http.get(page["meta"]["previous_page_url"])).json()
    assert back["interactions"] == seen[2:4]
    first = (await http.get(page["meta"]["first_page_url"])).json()
    assert first["interactions"] == seen[:2]


async def test_delete(http: httpx.AsyncClient, ingest: Ingest, parents: Parents) -> None:
    interaction = new_interaction(parents)
    await record(ingest, interaction)
    path = f"{parents.path}/{interaction.sid}"
    response = await http.delete(path)
    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers
    for method in ("DELETE", "GET"):
        assert_error(await http.request(method, path), 404, 20404, not_found(path))


async def test_all_requests_for_something_unknown_get_the_same_response(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    mine = new_interaction(parents)
    theirs = new_interaction(parents._replace(account_sid=new_sid("AC")))
    await record(ingest, mine, theirs)
    service, session = f"/v1/Services/{parents.service_sid}", f"Sessions/{parents.session_sid}"
    paths = [
        f"{parents.path}/{new_sid('KI')}",
        f"{parents.path}/{theirs.sid}",
        f"{parents.path}/KI1",
        f"{parents.path}/{mine.sid}/",
        f"{parents.path}%2F{mine.sid}",
        f"{parents.path}/",
        f"{service}/Sessions/{new_sid('KC')}/Interactions/{mine.sid}",
        f"{service}/Sessions/nonsense/Interactions",
        f"/v1/Services/{new_sid('KS')}/{session}/Interactions/{mine.sid}",
        f"/v1/Services/KS1/{session}/Interactions",
        f"{service}/{session}/Participants",
        "/v1/Services",
        "/",
        "/v2",
    ]
    for path in paths:
        assert_error(await http.get(path), 404, 20404, not_found(path))
    for path in paths[:5]:
        assert_error(await http.delete(path), 404, 20404, not_found(path))
    assert (await http.get(f"{parents.path}/{mine.sid}")).status_code == 200


async def test_an_account_lists_its_own_interactions_and_an_admin_lists_all(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    mine = new_interaction(parents)
    theirs = new_interaction(parents._replace(account_sid=new_sid("AC")))
    await record(ingest, mine, theirs)
    assert [row["sid"] for row in (await http.get(parents.path)).json()["interactions"]] == [
        mine.sid
    ]
    response = await http.get(parents.path, auth=(new_sid("SK"), "secret"))
    assert len(response.json()["interactions"]) == 2


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Basic", "Basic !", "Basic QUM=", "Bearer token", basic("AC1"), basic("user"),
     basic("AC" + "0" * 32, ""), "Basic /////w=="],
)  # fmt: skip
async def test_missing_or_bad_credentials(
    server: Served, parents: Parents, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        for method in ("GET", "POST"):
            response = await client.request(method, parents.path, headers=headers)
            assert_error(response, 401, 20003, "Authenticate")
            assert response.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "OPTIONS", "DELETE"])
async def test_methods_that_are_not_allowed_on_a_list(
    http: httpx.AsyncClient, parents: Parents, method: str
) -> None:
    response = await http.request(method, parents.path)
    assert_error(response, 405, 20004, f"Method {method} is not allowed.*")
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_methods_that_are_not_allowed_on_an_interaction(
    http: httpx.AsyncClient, parents: Parents, method: str
) -> None:
    response = await http.request(method, f"{parents.path}/{new_sid('KI')}", headers=FORM)
    assert_error(response, 405, 20004, f"Method {method} is not allowed.*")
    assert response.headers["allow"] == "DELETE, GET, HEAD"


async def test_head_is_a_get_without_its_body(
    http: httpx.AsyncClient, ingest: Ingest, parents: Parents
) -> None:
    interaction = new_interaction(parents)
    await record(ingest, interaction)
    response = await http.head(f"{parents.path}/{interaction.sid}")
    assert (response.status_code, response.content) == (200, b"")


async def test_links_begin_with_the_public_url_and_never_with_the_host_header(
    tmp_path: Path,
) -> None:
    public = "https://log.example.com/twilio"
    with served(tmp_path, "--public-url", f"{public}/", "--no-grpc") as running:
        parents = Parents(new_sid("AC"), new_sid("KS"), new_sid("KC"))
        async with httpx.AsyncClient(auth=(parents.account_sid, "x"), trust_env=False) as client:
            response = await client.get(
                f"{running.base_url}{parents.path}", headers={"Host": "evil.example.com"}
            )
        assert response.json()["meta"]["url"] == f"{public}{parents.path}?PageSize=50&Page=0"
        assert "evil" not in response.text


class Failing(Interactions):
    """An application whose every operation raises a given error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def get(self, *_: Any, **__: Any) -> bytes:
        raise self.error

    async def page(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.fixture
async def failing(tmp_path: Path) -> AsyncIterator[Any]:
    clients: list[httpx.AsyncClient] = []
    store = await open_store(files.url(tmp_path))
    pipeline = open_pipeline(store)

    async def get(error: Exception) -> httpx.Response:
        app = create_app(Failing(error), "http://x", pipeline)
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://x", auth=(new_sid("AC"), "x")
        )
        clients.append(client)
        return await client.get(Parents("", new_sid("KS"), new_sid("KC")).path)

    yield get
    for client in clients:
        await client.aclose()
    await store.close()


async def test_unexpected_errors_are_masked(
    failing: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    response = await failing(RuntimeError("SELECT secrets FROM somewhere"))
    assert_error(response, 500, 20500, "Internal error, reference [0-9a-f]{12}")
    reference = response.json()["message"].split()[-1]
    logged = capfd.readouterr()
    assert reference in logged.out + logged.err


async def test_temporary_errors_have_a_retry_after_header(failing: Any) -> None:
    response = await failing(Overloaded())
    assert_error(response, 429, 20429, "Too many requests.*")
    assert response.headers["retry-after"] == "1"
    response = await failing(Unavailable("The store can't be used at the moment"))
    assert_error(response, 503, 20503, "The store can't be used at the moment")
    assert response.headers["retry-after"] == "1"


async def test_a_missing_permission_is_status_403(failing: Any) -> None:
    assert_error(await failing(PermissionDenied("No")), 403, 20403, "No")
