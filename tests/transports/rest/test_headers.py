"""Headers of HTTP responses: caching and CORS."""

from collections.abc import Iterator

import httpx
import pytest
from testing.build import Parents, new_interaction, new_parents
from testing.http1 import exchange
from testing.process import Served, served
from testing.requests import record
from testing.stubs import Ingest

from interaction_svc.runtime.settings import SettingsError, load_settings

ORIGIN = "https://log.example.com"
OTHER = "https://evil.example.com"


async def test_every_response_forbids_caches_to_store_it(
    http: httpx.AsyncClient, server: Served, ingest: Ingest, parents: Parents
) -> None:
    interaction = new_interaction(parents)
    await record(ingest, interaction)
    path = f"{parents.path}/{interaction.sid}"
    for method, where, status in (
        ("GET", parents.path, 200),
        ("GET", path, 200),
        ("HEAD", path, 200),
        ("DELETE", path, 204),
        ("GET", path, 404),
        ("POST", path, 405),
        ("GET", f"{parents.path}?PageSize=0", 400),
        ("GET", "/openapi.json", 200),
        ("GET", "/healthz", 200),
        ("GET", "/nowhere", 404),
    ):
        response = await http.request(method, where)
        assert response.status_code == status
        assert response.headers["cache-control"] == "no-store"
    response = await http.get(path, auth=("nobody", "x"))
    assert (response.status_code, response.headers["cache-control"]) == (401, "no-store")
    (refusal,) = exchange(server, b"this is not HTTP\r\n\r\n", half_close=False)
    assert (refusal.status, refusal.headers["cache-control"]) == (400, "no-store")


@pytest.fixture(scope="module")
def open_to(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = ("--http-cors-origins", f"{ORIGIN}, http://localhost:3000", "--no-grpc")
    with served(tmp_path_factory.mktemp("cors"), *flags) as running:
        yield running


@pytest.fixture
def client(open_to: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=open_to.base_url, trust_env=False) as client:
        yield client


def preflight(
    client: httpx.Client, origin: str, method: str = "DELETE", headers: str | None = None
) -> httpx.Response:
    given = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers is not None:
        given["Access-Control-Request-Headers"] = headers
    return client.options(f"{new_parents().path}/KI1", headers=given)


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
def test_a_preflight_of_an_allowed_origin_needs_no_credentials(
    client: httpx.Client, origin: str
) -> None:
    response = preflight(client, origin, headers="authorization")
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert response.headers["access-control-allow-methods"] == "GET, HEAD, POST, DELETE"
    assert "Authorization" in response.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in response.headers
    assert "Origin" in response.headers["vary"]
    assert response.headers["twilio-request-id"]


@pytest.mark.parametrize(
    "origin", [OTHER, f"{ORIGIN}.evil.com", f"{ORIGIN}:444", ORIGIN.upper(), "null", "*", ""]
)
def test_other_origins_get_responses_without_cors_headers(
    client: httpx.Client, origin: str
) -> None:
    response = preflight(client, origin)
    assert (response.status_code, response.json()["code"]) == (401, 20003)
    assert not any(name.startswith("access-control-") for name in response.headers)
    response = client.get("/healthz", headers={"Origin": origin})
    assert response.status_code == 200
    assert not any(name.startswith("access-control-") for name in response.headers)


@pytest.mark.parametrize(("method", "headers"), [("PATCH", None), ("GET", "x-other")])
def test_a_preflight_for_an_unsupported_method_or_header_is_refused_in_the_vendors_shape(
    client: httpx.Client, method: str, headers: str | None
) -> None:
    response = preflight(client, ORIGIN, method, headers)
    assert (response.status_code, response.json()["code"]) == (400, 20001)
    assert response.json()["message"].startswith("Disallowed CORS ")


def test_a_page_of_an_allowed_origin_can_read_responses_and_errors(client: httpx.Client) -> None:
    parents = new_parents()
    for auth, status in (((parents.account_sid, "x"), 200), (None, 401)):
        response = client.get(parents.path, headers={"Origin": ORIGIN}, auth=auth)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ORIGIN
        exposed = response.headers["access-control-expose-headers"]
        assert {"Twilio-Request-Id", "Retry-After"} <= set(exposed.split(", "))
        assert "Origin" in response.headers["vary"]


async def test_without_the_setting_no_origin_is_allowed(
    http: httpx.AsyncClient, parents: Parents
) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    for response in (
        await http.options(parents.path, headers=headers),
        await http.get(parents.path, headers=headers),
    ):
        assert not any(name.startswith("access-control-") for name in response.headers)


def test_origins_are_accepted_as_browsers_send_them() -> None:
    origins = "https://a.example, http://localhost:3000,http://[::1]:8080,https://127.0.0.1:8443"
    assert load_settings(http_cors_origins=origins).http_cors_origins == (
        "https://a.example", "http://localhost:3000", "http://[::1]:8080", "https://127.0.0.1:8443",
    )  # fmt: skip


@pytest.mark.parametrize(
    "origin",
    [
        "*", "null", "example.com", "https://*.example.com", "https://example.com/",
        "https://example.com/app", "https://Example.com", "HTTPS://example.com", "ftp://example.com",
        "https://example.com:443", "http://example.com:80", "https://me@example.com",
        "https://example.com:", "https://", "https://exämple.com", "https://example.com?x",
    ],
)  # fmt: skip
def test_an_invalid_origin_in_the_setting_is_refused_at_start(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"^http_cors_origins: '.*' is not an origin .* write"):
        load_settings(http_cors_origins=f"https://a.example,{origin}")
