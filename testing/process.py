"""Runs the service as a process, with a new store and on free ports."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-m", "interaction_svc"]
EXIT_SECONDS = 60
_PROGRAM_WITH_TIMES = """
import importlib, json, runpy, sys

for name, seconds in json.loads(sys.argv.pop(1)).items():
    module, _, constant = name.rpartition(".")
    found = importlib.import_module("interaction_svc." + module)
    assert hasattr(found, constant), name
    setattr(found, constant, seconds)
runpy.run_module("interaction_svc", run_name="__main__", alter_sys=True)
"""


def command(times: Mapping[str, float] | None) -> list[str]:
    """Return the command, with other values for the constants in `times`: `app.module.NAME`.

    This shortens fixed time limits, so that tests need not wait for them.
    """
    if times is None:
        return COMMAND
    return [sys.executable, "-c", _PROGRAM_WITH_TIMES, json.dumps(dict(times))]


@dataclass
class Served:
    process: subprocess.Popen[str]
    store: Path
    log: Path
    grpc_address: str = ""
    base_url: str = ""
    metrics_url: str = ""
    told: bool = False

    def terminate(self) -> None:
        """Send SIGTERM, only once: a second signal would end the server at once."""
        if not self.told and self.process.poll() is None:
            self.told = True
            self.process.send_signal(signal.SIGTERM)

    def exit_status(self) -> int:
        return self.process.wait(EXIT_SECONDS)


@contextmanager
def served(
    folder: Path,
    *flags: str,
    env: dict[str, str] | None = None,
    status: int = 0,
    times: Mapping[str, float] | None = None,
) -> Iterator[Served]:
    """Serve until the end of the block. Check that the server then stops with this exit status."""
    store, log = folder / "interactions.db", folder / "log.jsonl"
    serve = [
        *command(times), "serve", "--store", f"sqlite:///{store}",
        "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
        "--metrics-address", "127.0.0.1:0", *flags,
    ]  # fmt: skip
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            serve,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
            env={**os.environ, **(env or {})},
        ) as process,
    ):
        server = Served(process, store, log)
        try:
            _read_addresses(
                server,
                3 - ("--no-grpc" in flags) - ("--no-http" in flags) - ("--no-metrics" in flags),
            )
            yield server
            server.terminate()
            assert server.exit_status() == status, log.read_text()
        finally:
            process.kill()


def _read_addresses(server: Served, count: int) -> None:
    assert server.process.stdout is not None
    for _ in range(count):
        line = server.process.stdout.readline()
        what, _, address = line.strip().partition(" on ")
        assert what in ("gRPC", "REST", "metrics"), f"{line!r}\n{server.log.read_text()}"
        if what == "gRPC":
            server.grpc_address = address
        elif what == "REST":
            server.base_url = address
        else:
            server.metrics_url = address


def run(
    *arguments: str,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    **env: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, **env},
    )
