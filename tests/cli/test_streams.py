"""The command line's standard streams: closed, full, without a reader, or not UTF-8."""

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testing import api_keys
from testing.build import Parents, new_interaction, new_sid
from testing.process import COMMAND, EXIT_SECONDS, Served, run
from testing.requests import record
from testing.resources import FIVE, lines
from testing.stubs import Ingest
from testing.wait import wait_until

FULL = b"interaction-svc: standard output can't be written: No space left on device"
CLOSED = b"interaction-svc: standard output is closed"
NO_READER = b"interaction-svc: nobody reads standard output"
LATER = b"; no key was made"


@pytest.fixture(autouse=True)
def named_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make --show-completion take the shell as a value, instead of detecting it."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with five Interactions and a key. Tests do not change it."""
    path = tmp_path_factory.mktemp("stored") / "interactions.db"
    run("import", "-", f"--store=sqlite:///{path}", stdin=lines(FIVE).encode())
    api_keys.new_key(path, "admin")
    return path


def run_closed(*arguments: str, closed: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command line with a stream closed, as by `>&-` or `<&-`."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *COMMAND, *arguments],
        capture_output=True, timeout=EXIT_SECONDS, check=False,
    )  # fmt: skip


def run_into(output: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE,
        timeout=EXIT_SECONDS, check=False,
    )  # fmt: skip


@contextmanager
def full() -> Iterator[int]:
    with open("/dev/full", "wb") as device:
        yield device.fileno()


@contextmanager
def without_reader() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


COMMANDS = {
    "a page of help": ["--help"],
    "version": ["--version"],
    "completion": ["--show-completion", "bash"],
    "export": ["export", "--store"],
    "keys list as a table": ["keys", "list", "--table", "--store"],
    "migrate": ["migrate", "--check", "--store"],
    "import": ["import", "/dev/null", "--store"],
}


def with_store(arguments: list[str], store: Path) -> list[str]:
    return [*arguments, f"sqlite:///{store}"] if arguments[-1] == "--store" else arguments


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_behind_standard_output_fails_with_its_reason(store: Path, name: str) -> None:
    with full() as output:
        ran = run_into(output, *with_store(COMMANDS[name], store))
    assert (ran.returncode, ran.stderr) == (1, FULL + b"\n")


@pytest.mark.parametrize("name", ["completion", "export", "keys list as a table"])
def test_a_closed_pipe_ends_a_command_silently(store: Path, name: str) -> None:
    with without_reader() as output:
        ran = run_into(output, *with_store(COMMANDS[name], store))
    assert (ran.returncode, ran.stderr) == (1, b"")


@pytest.mark.parametrize("name", ["version", "export", "migrate"])
def test_a_closed_standard_output_fails_with_its_reason(store: Path, name: str) -> None:
    before = store.read_bytes()
    ran = run_closed(*with_store(COMMANDS[name], store), closed=">&-")
    assert (ran.returncode, ran.stderr) == (1, CLOSED + b"\n")
    assert store.read_bytes() == before


@pytest.mark.parametrize(
    ("fault", "form"),
    [("closed", []), ("full", []), ("full", ["--json"]), ("without a reader", ["--json"])],
)
def test_a_key_whose_secret_can_not_be_printed_is_not_created(
    tmp_path: Path, fault: str, form: list[str]
) -> None:
    path = tmp_path / "interactions.db"
    create = ["keys", "create", "--role", "admin", *form, f"--store=sqlite:///{path}"]
    if fault == "closed":
        ran, message = run_closed(*create, closed=">&-"), CLOSED
    elif fault == "full":
        with full() as output:
            ran, message = run_into(output, *create), FULL
    else:
        with without_reader() as output:
            ran, message = run_into(output, *create), NO_READER
    assert (ran.returncode, ran.stderr) == (1, message + LATER + b"\n")
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM api_keys").fetchone() == (0,)
    db.close()


def test_a_secret_is_printed_before_its_key_is_stored(tmp_path: Path) -> None:
    """If the process is killed in between, no key with an unknown secret is stored."""
    path = tmp_path / "interactions.db"
    api_keys.new_key(path, "admin")
    with sqlite3.connect(path) as blocking:
        blocking.execute("BEGIN IMMEDIATE")  # so that the new key can't be stored
        with subprocess.Popen(
            [*COMMAND, "keys", "create", "--role", "admin", f"--store=sqlite:///{path}"],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            shown = process.stdout.readline() + process.stdout.readline()
            process.kill()
        blocking.rollback()
        assert b"secret" in shown
        assert blocking.execute("SELECT count(*) FROM api_keys").fetchone() == (1,)
    blocking.close()


def test_a_key_that_was_printed_and_not_stored_is_named(tmp_path: Path) -> None:
    path = tmp_path / "interactions.db"
    api_keys.new_key(path, "admin")
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON api_keys BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    db.close()
    ran = run("keys", "create", "--role", "admin", "--json", f"--store=sqlite:///{path}")
    sid = json.loads(ran.stdout)["sid"]
    assert ran.returncode == 1
    assert f"storing the key {sid} failed: it is valid only if keys list" in ran.stderr.decode()


def test_an_import_goes_on_without_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "interactions.db"
    text = lines([FIVE[0], {"sid": "KI1"}, FIVE[2]]).encode()
    for closed in ("2>/dev/full", "2>&-"):
        ran = subprocess.run(
            ["bash", "-c", f'"$@" {closed}', "bash", *COMMAND, "import", "-",
             f"--store=sqlite:///{path}"],
            input=text, stdout=subprocess.PIPE, timeout=EXIT_SECONDS, check=False,
        )  # fmt: skip
        assert ran.returncode == 1
        assert ran.stdout.endswith(b" 1 rejected\n")
    assert len(run("export", f"--store=sqlite:///{path}").stdout.splitlines()) == 2


def test_a_closed_standard_input_fails_with_its_reason(tmp_path: Path) -> None:
    ran = run_closed("import", "-", f"--store=sqlite:///{tmp_path}/x.db", closed="<&-")
    assert ran.returncode == 1
    assert ran.stderr == b"interaction-svc: -: standard input is closed\n"


def test_serve_works_without_standard_output(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with log.open("wb") as messages:
        process = subprocess.Popen(
            ["bash", "-c", 'exec "$@" >&-', "bash", *COMMAND, "serve", "--no-http", "--no-metrics",
             "--grpc-address=127.0.0.1:0", f"--store=sqlite:///{tmp_path}/x.db"],
            stderr=messages,
        )  # fmt: skip
    try:
        wait_until(lambda: b'"event":"serving"' in log.read_bytes())
        process.terminate()
        assert process.wait(EXIT_SECONDS) == 0
    finally:
        process.kill()
    assert b"Traceback" not in log.read_bytes()


BODY = '{"body":"naïve 😀 中"}'
ENCODINGS = [
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("env", ENCODINGS, ids=lambda env: " ".join(env.values()))
async def test_output_fits_the_encoding_of_standard_output(
    server: Served, parents: Parents, ingest: Ingest, env: dict[str, str]
) -> None:
    interaction = new_interaction(parents, data=BODY)
    await record(ingest, interaction)
    env = {**env, "INTERACTION_SVC_SERVER": server.grpc_address}
    encoding = "latin-1" if "latin-1" in env.values() else "utf-8"

    table = run("list", *parents[1:], "--table", stdin=None, cwd=None, **env, COLUMNS="120")
    assert table.returncode == 0, table.stderr
    assert interaction.sid in table.stdout.decode(encoding)
    listed = run("list", *parents[1:], "--json", stdin=None, cwd=None, **env)
    got = run("get", *parents[1:], interaction.sid, stdin=None, cwd=None, **env)
    for ran in (listed, got):
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["data"] == BODY
        assert ran.stdout.isascii()


@pytest.mark.parametrize("env", [{}, ENCODINGS[-1]], ids=lambda env: " ".join(env.values()))
def test_messages_about_names_of_any_bytes_have_no_traceback(
    tmp_path: Path, env: dict[str, str]
) -> None:
    for arguments in (
        ["import", b"na\xefve \xe4\xb8\xad.json".decode("utf-8", "surrogateescape")],
        ["get", "KS1", "KC1", b"KI\xff".decode("utf-8", "surrogateescape")],
        ["keys", "create", "--role", "read", "--account", "ACé中"],
    ):
        ran = run(*arguments, stdin=None, cwd=tmp_path, **env)
        assert ran.returncode == 2
        assert b"Traceback" not in ran.stderr
        assert b"Error: Invalid value for " in ran.stderr


@pytest.mark.parametrize("columns", ["0", "40"])
def test_sids_are_whole_on_a_terminal_of_any_width(store: Path, columns: str) -> None:
    ran = run("keys", "list", "--table", f"--store=sqlite:///{store}", COLUMNS=columns)
    assert len(ran.stdout.splitlines()[1].split()[0]) == len(new_sid("SK"))
