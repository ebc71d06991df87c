"""Runs the clients of this folder against a real server, and checks every line that they print.

`make test-clients` builds them first. A client without its toolchain is reported and left out.
"""

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from difflib import unified_diff
from itertools import islice
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
CLI = str(Path(sys.executable).with_name("interaction-svc"))
CLIENTS = {
    "go": [str(ROOT / ".build/bin/list-interactions")],
    "node": ["node", str(ROOT / "clients/node/main.mjs")],
}
PAGE_SIZE = 7
NOT_FOUND = "not found, as expected: ERROR_REASON_INTERACTION_NOT_FOUND"

_DEADLINE_SECONDS = 60
_SHOWN_LINES = 20


class Results:
    """The number of checks, and of failed ones."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def compare(self, what: str, expected: list[str], seen: list[str]) -> None:
        """Compare lines, and print the differences."""
        if seen == expected:
            self.passed += 1
            print(f"ok      {what}")
            return
        self.failed += 1
        print(f"FAILED  {what}")
        difference = unified_diff(expected, seen, "expected", "seen", lineterm="")
        for line in islice(difference, _SHOWN_LINES):
            print(f"        {line}")


async def main() -> int:
    """Run all checks that this machine has the tools for, and return the exit status."""
    results = Results()
    with TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/interactions.db"
        samples = [*(ROOT / "samples").glob("*.json"), *(ROOT / "samples").glob("*.jsonl")]
        await output(CLI, "import", "--store", store, *map(str, samples))
        service, session = await fullest_session(store)
        async with serving(store, Path(folder, "server.log"), results) as server:
            listed = await output(CLI, "list", service, session, "--server", server, "--json")
            interactions = [json.loads(line) for line in listed]
            flags = ["--server", server, "--service", service, "--session", session]
            flags += ["--page-size", str(PAGE_SIZE)]
            printed = {}
            for tool, command in CLIENTS.items():
                if shutil.which(tool) is None:
                    print(f"LEFT OUT: clients/{tool}, for there is no {tool}")
                    continue
                status, printed[tool] = await run(*command, *flags)
                results.compare(f"{tool}: exit status", ["0"], [str(status)])
                check_lines(tool, printed[tool], interactions, results)
            if len(printed) == len(CLIENTS):
                results.compare("go and node: the same lines", printed["go"], printed["node"])
    print(f"{results.passed} passed, {results.failed} failed")
    return 1 if results.failed else 0


async def fullest_session(store: str) -> tuple[str, str]:
    """Return the Service and the Session with the most Interactions."""
    exported = [json.loads(line) for line in await output(CLI, "export", "--store", store)]
    sessions = Counter((one["service_sid"], one["session_sid"]) for one in exported)
    return sessions.most_common(1)[0][0]


def check_lines(
    tool: str, lines: list[str], interactions: list[dict[str, str | None]], results: Results
) -> None:
    """Check a client's output: a line for each Interaction, one for the missing one, and counts."""
    listed = [line for line in lines if line.startswith("KI")]
    results.compare(
        f"{tool}: the Session's Interactions in their order",
        [str(one["sid"]) for one in interactions],
        [line.split()[0] for line in listed],
    )
    results.compare(
        f"{tool}: type, time and legs of each", [line_of(one) for one in interactions], listed
    )
    pages = ceil(len(interactions) / PAGE_SIZE)
    results.compare(
        f"{tool}: not found by its reason, and the counts",
        [NOT_FOUND, f"{len(interactions)} Interactions on {pages} pages"],
        [line for line in lines if line not in listed],
    )


def line_of(interaction: dict[str, str | None]) -> str:
    """Return the line that a client prints for a resource of `interaction-svc list --json`."""
    created = datetime.fromisoformat(str(interaction["date_created"]))
    return (
        f"{interaction['sid']} {str(interaction['type']).upper()}"
        f" {created:%Y-%m-%dT%H:%M:%S.%fZ}"
        f" {leg_of(interaction, 'inbound')} -> {leg_of(interaction, 'outbound')}"
    )


def leg_of(interaction: dict[str, str | None], side: str) -> str:
    """Return a leg as a client should print it. All properties of a missing leg are null."""
    properties = [value for name, value in interaction.items() if name.startswith(f"{side}_")]
    if not any(properties):
        return "-"
    status = interaction[f"{side}_resource_status"] or "unspecified"
    participant = interaction[f"{side}_participant_sid"] or "?"
    return f"{participant}/{status.upper().replace('-', '_')}"


@asynccontextmanager
async def serving(store: str, log: Path, results: Results) -> AsyncIterator[str]:
    """Serve a store, and yield the gRPC address. Then stop the server, and check its status."""
    command = [CLI, "serve", "--store", store]
    command += ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    with log.open("wb") as logs:
        server = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=logs
        )
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            first_line = await server.stdout.readline() if server.stdout else b""
        if not first_line:
            await server.wait()
            show(log)
            sys.exit("the server didn't start")
        yield first_line.decode().strip().removeprefix("gRPC on ")
        server.terminate()
        async with asyncio.timeout(_DEADLINE_SECONDS):
            status = await server.wait()
        results.compare("server: exit status after SIGTERM", ["0"], [str(status)])
        if status:
            show(log)
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


def show(log: Path) -> None:
    """Print the server's log."""
    print(log.read_text())


async def output(*command: str) -> list[str]:
    """Return the lines that a command prints; end the program if it fails."""
    status, lines = await run(*command)
    if status:
        sys.exit(f"exit status {status}: {' '.join(command)}")
    return lines


async def run(*command: str) -> tuple[int | None, list[str]]:
    """Run a command to its end, and return its exit status and the lines that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            stdout, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, stdout.decode().splitlines()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
