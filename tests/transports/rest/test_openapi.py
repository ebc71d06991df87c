"""The OpenAPI document is valid and complete, and the service behaves as it says."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from typing import Any

import grpc
import httpx
import schemathesis
from testing.build import Parents, new_parents, new_session
from testing.process import Served, served
from testing.requests import record

from interaction_svc.codec.twilio_json import PROPERTIES
from interaction_svc.codec.twilio_query import CARRIED, PAGING
from interaction_svc.transports.operations import HTTP
from interaction_svc.transports.rest.openapi import openapi_document
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub

LIST = "/v1/Services/{ServiceSid}/Sessions/{SessionSid}/Interactions"
BASE_URL = "http://127.0.0.1:8080"
METHODS = ("get", "delete", "post", "put", "patch", "head", "options", "trace")

# A schema can't express the valid page tokens and page numbers.
CONFIGURATION = f"""
[[operations]]
include-name = "GET {LIST}"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "GET {LIST}/{{Sid}}"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "HEAD {LIST}"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "HEAD {LIST}/{{Sid}}"
checks.positive_data_acceptance.enabled = false
"""


def operations(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in METHODS
    }


async def test_the_document_needs_no_credentials(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        response = await client.get("/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == openapi_document(server.base_url)


def test_the_document_is_valid_openapi() -> None:
    document = openapi_document(BASE_URL)
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    assert len(list(schema.get_all_operations())) == len(operations(document)) == 11


def test_the_document_uses_only_keywords_of_openapi_3_0() -> None:
    """Some validators accept keywords of 3.1, which generators then misread."""
    document = openapi_document(BASE_URL)
    assert document["openapi"] == "3.0.3"
    for schema in all_schemas(document):
        assert isinstance(schema.get("type", ""), str)
        assert not schema.keys() & {"const", "examples", "$schema", "prefixItems", "if"}
        assert schema.keys() == {"$ref"} or "type" in schema
        if "enum" in schema:
            assert (None in schema["enum"]) == schema.get("nullable", False)
    identifiers = [
        item[method]["operationId"]
        for item in document["paths"].values()
        for method in METHODS
        if method in item
    ]
    assert len(set(identifiers)) == len(identifiers) == 11


def all_schemas(found: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema of a document or of a part of it."""
    if isinstance(found, list):
        for each in found:
            yield from all_schemas(each)
    elif isinstance(found, dict):
        for name, value in found.items():
            if name in ("schemas", "properties"):
                yield from value.values()
            elif name in ("schema", "items"):
                yield value
            yield from all_schemas(value)


def test_only_optional_properties_are_nullable() -> None:
    schemas = openapi_document(BASE_URL)["components"]["schemas"]
    meta = schemas["InteractionList"]["properties"]["meta"]
    assert nullable(meta) == {"next_page_url", "previous_page_url"}
    assert set(meta["required"]) == set(meta["properties"])
    always = {"sid", "session_sid", "service_sid", "account_sid", "type", "url"}
    assert nullable(schemas["Interaction"]) == PROPERTIES - always


def nullable(schema: dict[str, Any]) -> set[str]:
    return {name for name, each in schema["properties"].items() if each.get("nullable")}


def test_head_is_described_as_get_without_content() -> None:
    for path, item in openapi_document(BASE_URL)["paths"].items():
        get, head = item["get"], item["head"]
        assert head.get("parameters") == get.get("parameters"), path
        assert head["responses"].keys() == get["responses"].keys()
        assert all("content" not in answer for answer in head["responses"].values())


def test_the_document_has_every_route_and_no_others() -> None:
    named = {"service_sid": "ServiceSid", "session_sid": "SessionSid", "sid": "Sid"}
    braced = {ours: f"{{{name}}}" for ours, name in named.items()}
    routes = {
        (method, operation.route.path.format(**braced))
        for operation in HTTP
        if operation.route is not None
        for method in {operation.route.method, operation.route.method.replace("GET", "HEAD")}
    }
    assert operations(openapi_document(BASE_URL)) == routes


def test_the_document_has_every_parameter_of_the_list_and_no_others() -> None:
    parameters = openapi_document(BASE_URL)["paths"][LIST]["get"]["parameters"]
    queried = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    assert queried == [*PAGING, *CARRIED]


def test_only_operations_on_interactions_need_credentials() -> None:
    document = openapi_document(BASE_URL)
    assert document["security"] == [{"basic": []}, {"bearer": []}]
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                open_to_all = item[method].get("security") == []
                assert open_to_all != path.startswith("/v1/")
                assert open_to_all != ("401" in item[method]["responses"])


def test_the_service_answers_as_the_document_says(tmp_path: Path) -> None:
    """schemathesis sends valid and invalid requests, and checks the responses."""
    parents = new_parents()
    with served(tmp_path) as server:
        sids = asyncio.run(_record_some(server, parents))
        document = httpx.get(f"{server.base_url}/openapi.json", trust_env=False).json()
        _give_examples(document, parents, sids)
        (tmp_path / "openapi.json").write_text(json.dumps(document))
        (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
        found = run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                *("--config-file", "schemathesis.toml"),
                *("run", "openapi.json", "--url", server.base_url),
                *("--auth", f"{parents.account_sid}:secret"),
                *("--phases", "examples,coverage,fuzzing", "--mode", "all"),
                *("--max-examples", "20", "--generation-deterministic"),
                *("--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        answered = _answered(server)
    assert "Traceback" not in server.log.read_text()
    assert answered >= {
        *(("list", code) for code in ("200", "400", "404")),
        *(("fetch", code) for code in ("200", "404")),
        *(("delete", code) for code in ("204", "404")),
        ("list", "401"),
        ("other", "405"),
    }


async def _record_some(server: Served, parents: Parents) -> list[str]:
    interactions = new_session(parents, 60)
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        await record(IngestServiceStub(channel), *interactions)
    return [interaction.sid for interaction in interactions]


def _give_examples(document: dict[str, Any], parents: Parents, sids: list[str]) -> None:
    """Add existing SIDs as examples, so that not all responses are 404."""
    known = {"ServiceSid": [parents.service_sid], "SessionSid": [parents.session_sid], "Sid": sids}
    for item in document["paths"].values():
        for parameter in item.get("parameters", []):
            parameter["examples"] = {
                str(number): {"value": value}
                for number, value in enumerate(known[parameter["name"]][:5])
            }


def _answered(server: Served) -> set[tuple[str, str]]:
    """Return the codes of each method, from the log."""
    lines = map(json.loads, server.log.read_text().splitlines())
    return {(line["method"], line["code"]) for line in lines if line["event"] == "call"}
