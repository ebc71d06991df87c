"""gRPC clients of several languages against a served process, on both engines.

`clients/conformance` and `clients/go/conformance` have a program for each client. A program is
called with the address of the server and a file of options. For each case it prints a line of JSON
with `case`, `ok` and `detail`. It compares the answers itself, so that its library decodes them.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from testing.api_keys import IssuedKey, new_key
from testing.build import new_parents, new_session, new_sid
from testing.certificates import Authority
from testing.log_lines import logged
from testing.paths import ROOT
from testing.process import Served, served
from testing.wait import wait_until

from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2 import RecordInteractionsRequest
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import GetInteractionResponse

pytestmark = pytest.mark.each_engine

BUILT = ROOT / ".build" / "conformance"
JAVA = BUILT / "java"
NODE = ROOT / "clients" / "conformance" / "node"
PROGRAM_SECONDS = 100

CLIENTS: dict[str, list[str | Path]] = {
    "grpcurl": [sys.executable, "-m", "clients.conformance.grpcurl"],
    "grpcio": [sys.executable, "-m", "clients.conformance.grpcio_sync"],
    "grpcio-aio": [sys.executable, "-m", "clients.conformance.grpcio_aio"],
    "go": [BUILT / "go"],
    "node": ["node", NODE / "main.mjs"],
    "java": ["java", "-cp", f"{JAVA}/classes:{JAVA}/jars/*", "Conformance"],
}
NEEDS: dict[str, Path | str | None] = {
    "grpcurl": shutil.which("grpcurl"),
    "go": BUILT / "go",
    "node": NODE / "node_modules",
    "java": JAVA / "classes" / "Conformance.class",
}
CASES = (
    "get", "list_pages", "list_1000", "list_4mib", "record", "record_stream", "delete",
    "error_details", "metadata", "deadline", "health_check", "health_watch", "too_large",
)  # fmt: skip
CASES_OF_A_CHANNEL = ("cancel", "gzip", "concurrent_500", "sequential_5000")
"""Not of grpcurl: each of its calls has a connection of its own, and it can't compress requests."""
CHANNELS = tuple(client for client in CLIENTS if client != "grpcurl")


class Filled:
    """An account with a key and Sessions to read, in the store of a server."""

    def __init__(self, server: Served, channel: grpc.Channel) -> None:
        self.parents = new_parents()
        self._key: IssuedKey = new_key(server.store, "ingest,operate", self.parents.account_sid)
        self._stub: Any = IngestServiceStub(channel)
        self._sessions = {
            "paged": self._record("paged", 120, 100),
            "thousand": self._record("thousand", 1000, 300),
            "large": self._record("large", 50, 100_000),
        }

    def _record(self, name: str, count: int, size: int) -> dict[str, Any]:
        parents = self.parents._replace(session_sid=new_sid("KC"))
        made = new_session(parents, count)
        for interaction in made:
            interaction.data = json.dumps({"body": "é🐎" + "x" * size}, ensure_ascii=False)
        if name == "paged":
            made[0].type = pb.INTERACTION_TYPE_VOICE
            made[0].outbound.ClearField("resource_url")
            made[0].create_time.nanos = 123_456_000
            self._expected = GetInteractionResponse(interaction=made[0])
        batches = (made[start : start + 20] for start in range(0, count, 20))
        response = self._stub.RecordInteractions(
            iter([RecordInteractionsRequest(interactions=batch) for batch in batches]),
            metadata=[("authorization", self._key.bearer)],
        )
        assert response.created == count
        return {"session_sid": parents.session_sid, "sids": [each.sid for each in made]}

    def options(self, client: str, cases: tuple[str, ...], tls: dict[str, str] | None) -> str:
        """Return the options of a program, as JSON. Each has a Session of its own to write."""
        return json.dumps(
            {
                "name": client,
                "cases": cases,
                "authorization": self._key.bearer,
                "account_sid": self.parents.account_sid,
                "service_sid": self.parents.service_sid,
                "sessions": {
                    **self._sessions, "written": {"session_sid": new_sid("KC"), "sids": []}
                },
                "expected": base64.b64encode(self._expected.SerializeToString()).decode(),
                "new_sids": [new_sid("KI") for _ in range(500)],
                "tls": tls,
            }
        )  # fmt: skip


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, engine: str
) -> Iterator[tuple[Served, Filled]]:
    with served(tmp_path_factory.mktemp(f"clients-{engine}")) as server:
        with grpc.insecure_channel(server.grpc_address) as channel:
            content = Filled(server, channel)
        yield server, content


@contextmanager
def started(
    client: str, address: str, options: str, folder: Path
) -> Iterator[subprocess.Popen[str]]:
    needed = NEEDS.get(client, ROOT)
    if needed is None or not Path(needed).exists():
        pytest.skip(f"{client} is not built")
    path = folder / "options.json"
    path.write_text(options)
    with subprocess.Popen(
        [*CLIENTS[client], address, path],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def outcomes(process: subprocess.Popen[str], stdin: str = "") -> dict[str, str]:
    """Return by case an empty string if all answers were right, or else what was wrong."""
    stdout, stderr = process.communicate(stdin, PROGRAM_SECONDS)
    assert process.returncode == 0, stderr
    lines = [json.loads(line) for line in stdout.splitlines()]
    return {line["case"]: "" if line["ok"] else line["detail"] for line in lines}


def right(cases: tuple[str, ...]) -> dict[str, str]:
    return dict.fromkeys(cases, "")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_the_right_answers(
    running: tuple[Served, Filled], client: str, tmp_path: Path
) -> None:
    server, content = running
    cases = (*CASES, *(CASES_OF_A_CHANNEL if client in CHANNELS else ("reflection",)))
    options = content.options(client, cases, None)
    with started(client, server.grpc_address, options, tmp_path) as process:
        assert outcomes(process) == right(cases)
    if client in CHANNELS:
        # grpc-js ends a stream normally, some milliseconds before it cancels it.
        codes = {"CANCELLED"} if client != "node" else {"CANCELLED", "OK"}
        assert logged_code(server, f"{client}-cancel") in codes
        assert logged_code(server, f"{client}-deadline") in codes | {"DEADLINE_EXCEEDED"}


def logged_code(server: Served, request_id: str) -> str:
    """Return the code of a call in the log. Wait for the line."""
    wait_until(lambda: bool(logged(server, "call", request_id=request_id)))
    (line,) = logged(server, "call", request_id=request_id)
    return str(line["code"])


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_uses_tls_and_its_certificate(client: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()
    tls = {"ca": str(authority.path), "certificate": "", "key": ""}
    flags = files.flags()
    asked = ("get", "metadata", "health_check")

    def ran(server: Served, cases: tuple[str, ...]) -> dict[str, str]:
        options = content.options(client, cases, tls)
        with started(client, server.grpc_address, options, tmp_path) as process:
            return outcomes(process)

    with served(tmp_path, *flags) as server:
        credentials = grpc.ssl_channel_credentials(authority.pem)
        with grpc.secure_channel(server.grpc_address, credentials) as channel:
            content = Filled(server, channel)
        assert ran(server, asked) == right(asked)
    flags += [
        "--tls-client-ca",
        str(authority.path),
        "--tls-client-names",
        "spiffe://example/worker",
    ]
    with served(tmp_path, *flags) as server:
        for name, cases in (
            ("worker", asked),
            ("other", ("permission_denied", "health_check")),
        ):
            issued = authority.client_with_uri(name, f"spiffe://example/{name}")  # a PKCS #8 key
            tls.update(certificate=str(issued.certificate), key=str(issued.key))
            assert ran(server, cases) == right(cases)


@pytest.mark.parametrize("client", CHANNELS)
def test_a_client_connects_again_after_a_restart(client: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        with served(tmp_path) as server:
            with grpc.insecure_channel(server.grpc_address) as channel:
                content = Filled(server, channel)
            options = content.options(client, ("reconnect",), None)
            process = stack.enter_context(started(client, server.grpc_address, options, tmp_path))
            assert process.stdout is not None
            assert process.stdout.readline() == "restart\n"
        with served(tmp_path, "--grpc-address", server.grpc_address):
            assert outcomes(process, "restarted\n") == right(("reconnect",))
