"""A page of another origin in Chromium calls the service with the official Connect clients."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet
from testing.api_keys import IssuedKey, new_key
from testing.build import Parents, new_parents, new_session
from testing.paths import ROOT
from testing.process import served

from interaction_svc.v1 import interaction_service_pb2
from interaction_svc.v1.ingest_service_pb2 import RecordInteractionsRequest
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub

BROWSER = ROOT / "tests" / "browser"
CHROMIUM = shutil.which("chromium")
TRANSPORTS = ("Connect, JSON", "Connect, protobuf", "Connect, GET", "gRPC-Web")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or not (BROWSER / "node_modules").exists(), reason="needs Node.js and Chromium"
)


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serve the page, and return its origin."""
    bundle = BROWSER / "node_modules" / ".bin" / "esbuild"
    options = ("--bundle", "--format=esm", "--log-level=error", f"--outfile={folder}/page.js")
    subprocess.run([bundle, BROWSER / "page.js", *options], check=True)
    (folder / "index.html").write_text("<script type=module src=page.js></script>")
    (folder / "descriptors.binpb").write_bytes(descriptors())
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def descriptors() -> bytes:
    """Return the files of the API as a FileDescriptorSet, each after those that it imports.

    protoc adds the JSON names of fields, which the descriptors of Python's stubs lack.
    """
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        files.setdefault(file.name, file)

    add(interaction_service_pb2.DESCRIPTOR)
    found = FileDescriptorSet()
    for file in files.values():
        copy = found.file.add()
        file.CopyToProto(copy)
        for message in copy.message_type:
            add_json_names(message)
    return found.SerializeToString()


def add_json_names(message: DescriptorProto) -> None:
    for field in message.field:
        first, *others = field.name.split("_")
        field.json_name = first + "".join(map(str.capitalize, others))
    for nested in message.nested_type:
        add_json_names(nested)


def fill(address: str, key: IssuedKey, parents: Parents) -> list[str]:
    """Record 25 Interactions, and return their SIDs."""
    made = new_session(parents, 25)
    made[0].data = '{"body":"žluťoučký 🐎"}'
    with grpc.insecure_channel(address) as channel:
        stub: Any = IngestServiceStub(channel)
        requests = iter([RecordInteractionsRequest(interactions=made)])
        stub.RecordInteractions(requests, metadata=[("authorization", key.bearer)])
    return [each.sid for each in made]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the page, and return the outcome of each transport; and what it should have read."""
    folder, parents = tmp_path_factory.mktemp("page"), new_parents()
    store = tmp_path_factory.mktemp("service")
    key = new_key(store / "interactions.db", "read", parents.account_sid)
    writer = new_key(store / "interactions.db", "ingest", parents.account_sid)
    with site(folder) as origin, served(store, "--http-cors-origins", origin) as server:
        sids = fill(server.grpc_address, writer, parents)
        shown = {
            "baseUrl": server.base_url,
            "authorization": key.bearer,
            "parents": {"serviceSid": parents.service_sid, "sessionSid": parents.session_sid},
            "sid": sids[0],
        }
        url = f"{origin}/#{urlencode({name: json.dumps(value) for name, value in shown.items()})}"
        ran = subprocess.run(
            ["node", "run.mjs", str(CHROMIUM), url],
            cwd=BROWSER, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        read: dict[str, Any] = json.loads(ran.stdout)
        return {"expected": sids, **read}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_page_of_an_allowed_origin_reads_the_log(outcome: dict[str, Any], transport: str) -> None:
    read = outcome[transport]
    assert isinstance(read, dict), read
    assert read["data"] == '{"body":"žluťoučký 🐎"}'
    assert read["sids"] == outcome["expected"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_its_client_gets_errors_with_code_text_and_details(
    outcome: dict[str, Any], transport: str
) -> None:
    read = outcome[transport]
    assert read["notFound"] == {
        "code": "NotFound",
        "rawMessage": f"Interaction KI{'0' * 32} was not found in this Session",
        "details": ["google.rpc.ErrorInfo", "google.rpc.ResourceInfo"],
        "id": True,
    }
    assert read["invalid"]["code"] == "InvalidArgument"
    assert "service_sid" in read["invalid"]["rawMessage"]
    assert read["unauthenticated"]["code"] == "Unauthenticated"
