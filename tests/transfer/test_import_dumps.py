"""Dumps of the vendor's SDKs are imported like the vendor's JSON."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from testing.build import NOON_US, Parents, new_interaction, new_session
from testing.paths import ROOT
from testing.process import Served, run
from testing.requests import record
from testing.resources import FIVE, lines
from testing.stubs import Ingest
from twilio.rest import Client

NODE = ROOT / "tests" / "node"


def by_node(server: Served, parents: Parents) -> str:
    """Return JSON.stringify of the Node SDK's list."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TWILIO_")}
    ran = subprocess.run(
        ["node", "dump.mjs", server.base_url, *parents],
        cwd=NODE, env=env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return ran.stdout


def by_python(server: Served, parents: Parents) -> str:
    """Return vars() of the Python SDK's instances as JSON lines, with str() of other types."""
    client = Client(parents.account_sid, "secret")
    client.proxy.base_url = server.base_url
    session = client.proxy.v1.services(parents.service_sid).sessions(parents.session_sid)
    return "".join(
        json.dumps(vars(instance), default=str) + "\n" for instance in session.interactions.list()
    )


MESSAGES: dict[Callable[[Served, Parents], str], str] = {
    by_node: "keys: 0 snake_case, 5 camelCase, 0 mixed\n",
    by_python: 'ignored keys: "_context" in 5, "_solution" in 5, "_version" in 5\n',
}


@pytest.mark.parametrize("dump", MESSAGES)
async def test_importing_a_dump_of_an_sdk_creates_an_equal_store(
    server: Served,
    ingest: Ingest,
    parents: Parents,
    tmp_path: Path,
    dump: Callable[[Served, Parents], str],
) -> None:
    if dump is by_node and not (NODE / "node_modules/.stamp").exists():
        pytest.skip("needs Node.js")
    made = [*new_session(parents, 4), new_interaction(parents, NOON_US - 10**6, inbound=None)]
    await record(ingest, *made)
    file, store = tmp_path / "dump.json", f"--store=sqlite:///{tmp_path}/other.db"
    file.write_text(dump(server, parents))
    ran = run("import", str(file), store)
    assert (ran.returncode, ran.stderr.decode()) == (0, MESSAGES[dump])
    assert ran.stdout.startswith(b"5 created, ")
    original = run("export", "--service", parents.service_sid, f"--store=sqlite:///{server.store}")
    assert len(original.stdout.splitlines()) == 5
    assert as_exported(run("export", store).stdout) == as_exported(original.stdout)


def as_exported(text: bytes) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


def test_names_of_ignored_keys_are_printed_without_control_characters(tmp_path: Path) -> None:
    odd = lines([{**FIVE[0], "\x1b[31m": 1, "é": "secret"}]).encode()
    ran = run("import", "--dry-run", "-", stdin=odd, cwd=tmp_path)
    assert ran.stderr == b'ignored keys: "\\u001b[31m" in 1, "\\u00e9" in 1\n'
