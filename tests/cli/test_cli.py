"""The command line: calls to a running server, migrate, settings, help and docs."""

import json
import os
import pty
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest
from testing.build import Parents, new_interaction, new_session
from testing.paths import DOCS, SAMPLES
from testing.process import COMMAND, EXIT_SECONDS, Served, run, served
from testing.requests import record
from testing.stubs import Ingest
from typer.testing import CliRunner

from interaction_svc import __version__
from interaction_svc.cli import app
from interaction_svc.runtime.settings import Settings, SettingsError, load_settings
from interaction_svc.store.sqlite.migrations import LATEST
from interaction_svc.v1 import interaction_pb2 as pb


@pytest.fixture
async def interactions(ingest: Ingest, parents: Parents) -> list[pb.Interaction]:
    made = new_session(parents, 30)
    made[4].type = pb.INTERACTION_TYPE_VOICE
    made[5].data = '{"body":"\x1b[31mred\x07"}'
    await record(ingest, *made)
    return made


def test_get(server: Served, parents: Parents, interactions: list[pb.Interaction]) -> None:
    sid = interactions[0].sid
    keys = [parents.service_sid, parents.session_sid, sid]
    got = run("get", *keys, "--server", server.grpc_address)
    resource = json.loads(got.stdout)
    assert (resource["sid"], resource["type"]) == (sid, "message")
    by_environment = run("get", *keys, INTERACTION_SVC_SERVER=server.grpc_address)
    assert by_environment.stdout == got.stdout


def test_list_follows_pages(
    server: Served, parents: Parents, interactions: list[pb.Interaction]
) -> None:
    keys = ["list", parents.service_sid, parents.session_sid, "--server", server.grpc_address]
    expected = [interaction.sid for interaction in interactions]

    def listed(*flags: str) -> list[str]:
        ran = CliRunner().invoke(app, [*keys, *flags])
        assert ran.exit_code == 0, ran.output
        return [json.loads(line)["sid"] for line in ran.stdout.splitlines()]

    assert listed() == expected
    assert [json.loads(line)["sid"] for line in run(*keys).stdout.splitlines()] == expected
    assert listed("--json", "--limit", "7") == expected[:7]
    assert listed("--order", "desc", "--limit", "3") == expected[:-4:-1]
    assert listed("--type", "voice") == [expected[4]]
    participant = interactions[2].inbound.participant_sid
    assert listed("--participant", participant) == [expected[2]]
    assert listed("--resource", interactions[3].outbound.resource_sid) == [expected[3]]
    assert listed("--status", "delivered") == expected
    assert listed("--status", "busy") == []
    start = interactions[20].create_time.ToJsonString()
    assert set(listed("--created-at-or-after", start)) | set(
        listed("--created-before", start)
    ) == set(expected)


def test_list_on_a_terminal_is_a_table_without_control_characters(
    server: Served, parents: Parents, interactions: list[pb.Interaction]
) -> None:
    command = [
        *COMMAND, "list", parents.service_sid, parents.session_sid, "--limit", "8",
        "--server", server.grpc_address,
    ]  # fmt: skip
    shown = on_a_terminal(command)
    rows = shown.splitlines()
    assert rows[0].split() == ["sid", "created", "type", "inbound", "outbound", "data"]
    assert [row.split()[0] for row in rows[1:]] == [row.sid for row in interactions[:8]]
    assert "2026-02-14T12:00:00Z" in rows[1]
    assert "\x1b[31m" not in shown
    assert "\x07" not in shown

    narrow = on_a_terminal(command, columns=80).splitlines()
    assert narrow[0].split() == ["sid", "created", "type", "data"]
    assert [row.split()[:3] for row in narrow[1:]] == [row.split()[:3] for row in rows[1:]]
    assert all(len(row) <= 80 for row in narrow)


async def test_json_on_a_terminal_has_no_control_characters(
    server: Served, parents: Parents, ingest: Ingest
) -> None:
    odd = '{"body":"\x1b[31m \x9b31m \u202e \x7f \U000e0041 naïve 😀"}'
    interaction = new_interaction(parents, data=odd)
    await record(ingest, interaction)
    flags = ["--server", server.grpc_address]
    export = ["export", f"--store=sqlite:///{server.store}", "--service", parents.service_sid]
    for arguments in (
        ["get", *parents[1:], interaction.sid, *flags],
        ["list", *parents[1:], "--json", *flags],
        export,
    ):
        shown = on_a_terminal([*COMMAND, *arguments])
        assert shown.replace("\n", "").isprintable()
        assert "naïve 😀" in shown
        assert json.loads(shown)["data"] == odd


def test_commands_use_no_proxy_for_a_loopback_server(
    server: Served, parents: Parents, interactions: list[pb.Interaction]
) -> None:
    got = run(
        "get", *parents[1:], interactions[0].sid, "--server", server.grpc_address,
        http_proxy="http://127.0.0.1:1", no_proxy="",
    )  # fmt: skip
    assert got.returncode == 0, got.stderr


def on_a_terminal(command: list[str], columns: int = 160) -> str:
    """Run a command on a terminal of so many columns, and return its output."""
    # Not with pty.fork: in a process with gRPC's threads, its fork handlers would run in the child.
    terminal, its_side = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "40", "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=its_side, stdout=its_side, stderr=its_side, env=environment
    )
    os.close(its_side)
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # Linux raises it when the other side has closed
        pass
    os.close(terminal)
    assert process.wait(EXIT_SECONDS) == 0
    return shown.decode().replace("\r\n", "\n")


def test_a_command_names_a_server_that_can_not_be_reached() -> None:
    ran = run("get", "KS1", "KC1", "KI1", "--server", "127.0.0.1:1")
    assert ran.returncode == 1
    assert b"127.0.0.1:1: UNAVAILABLE" in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_delete(server: Served, parents: Parents, interactions: list[pb.Interaction]) -> None:
    arguments = [
        "delete", parents.service_sid, parents.session_sid, interactions[9].sid,
        "--server", server.grpc_address,
    ]  # fmt: skip
    assert run(*arguments).returncode == 0
    again = run(*arguments)
    assert again.returncode == 1
    assert b"NOT_FOUND: Interaction" in again.stderr
    assert run(*arguments, "--allow-missing").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "KS1", "KC1", "--order", "up"], "--order"),
        (["list", "KS1", "KC1", "--type", "fax"], "must be one of message, unknown, voice"),
        (["list", "KS1", "KC1", "--created-at-or-after", "now"], "--created-at-or-after"),
        (["list", "KS1", "KC1", "--limit", "0"], "--limit"),
        (["serve", "--store", "mysql://x"], "store: 'mysql://…' is not the URL of a store"),
        (["serve", "--grpc-address", "nowhere"], "grpc_address: 'nowhere' is not an address"),
        (["serve", "--http-address", "::1:80"], "write an IPv6 address in brackets"),
        (["serve", "--http-address", "127.0.0.1:65536"], "is not an address"),
        (["serve", "--public-url", "example.com"], "public_url: 'example.com' is not a base URL"),
        (["serve", "--no-grpc", "--no-http"], "nothing to serve"),
        (["serve", "--drain-seconds", "-1"], "drain_seconds"),
        (["get", "KS1", "KC1", "KI1", "--server", "http://127.0.0.1:1"], "write host:port"),
        (["serve", "--store", "mysql://bob:hunter2@db/x"], "'mysql://…'"),
        (["serve", "--public-url", "http://bob:hunter2@x/"], "'http://…'"),
        (["serve", "--store", "sqlite:///x.db?mode=ro"], "there are no options"),
        (["serve", "--config", "none.toml"], "none.toml is not a file"),
    ],
)
def test_a_wrong_use_of_a_command_fails_with_status_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    ran = run(*arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert message in re.sub(r"[\s│]+", " ", ran.stderr.decode())
    assert b"Traceback" not in ran.stderr
    assert not os.listdir(tmp_path)


def test_an_address_in_use_fails_with_its_address(server: Served, tmp_path: Path) -> None:
    store = f"--store=sqlite:///{tmp_path}/x.db"
    http = server.base_url.removeprefix("http://")
    for flags in (
        ["--grpc-address", server.grpc_address, "--no-http"],
        ["--http-address", http, "--no-grpc"],
        ["--http-address", http, "--grpc-address", "127.0.0.1:0"],
    ):
        ran = run("serve", store, *flags)
        assert ran.returncode == 1
        assert b"can't listen" in ran.stderr
        assert b"Traceback" not in ran.stderr


def test_version() -> None:
    ran = run("--version")
    assert (ran.returncode, ran.stdout) == (0, f"interaction-svc {__version__}\n".encode())


def test_migrate(tmp_path: Path) -> None:
    store = f"--store=sqlite:///{tmp_path}/x.db"
    check = run("migrate", "--check", store)
    assert (check.returncode, check.stdout) == (1, f"schema 0 of {LATEST}\n".encode())
    assert not os.listdir(tmp_path)
    done = run("migrate", store)
    expected = f"schema {LATEST} of {LATEST}\n0 rows checked, 0 bad\n".encode()
    assert (done.returncode, done.stdout) == (0, expected)
    assert run("migrate", "--check", store).stdout == expected
    with sqlite3.connect(tmp_path / "x.db") as db:
        db.execute("INSERT INTO schema_migrations VALUES (99, 'later', '')")
    db.close()
    for command in (["migrate"], ["migrate", "--check"], ["serve"], ["export"]):
        refused = run(*command, store)
        assert refused.returncode == 1
        assert b"schema is version 99" in refused.stderr


def test_settings_come_from_flags_then_environment_then_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("INTERACTION_SVC_"):
            monkeypatch.delenv(name)
    assert load_settings().grpc_address == "127.0.0.1:50051"
    file = tmp_path / "interaction-svc.toml"
    file.write_text('grpc_address = "127.0.0.1:1"\nhttp_address = "127.0.0.1:2"\n')
    assert load_settings().grpc_address == "127.0.0.1:1"
    monkeypatch.setenv("INTERACTION_SVC_GRPC_ADDRESS", "127.0.0.1:3")
    assert load_settings().grpc_address == "127.0.0.1:3"
    monkeypatch.setenv("INTERACTION_SVC_PUBLIC_URL", "")
    assert load_settings().public_url is None
    assert load_settings(grpc_address="127.0.0.1:4").grpc_address == "127.0.0.1:4"
    assert load_settings(grpc_address=None).http_address == "127.0.0.1:2"
    other = tmp_path / "other.toml"
    other.write_text("drain_seconds = 7")
    assert load_settings(other).drain_seconds == 7
    assert load_settings(other).http_address == "127.0.0.1:8080"


def test_white_space_around_a_setting_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"SK{'0' * 32}:secret"
    texts = {
        "store": "sqlite:///other.db", "grpc_address": "127.0.0.1:1", "grpc": "false",
        "public_url": "https://log.example.com", "log_level": "debug", "workers": "2",
        "drain_seconds": "2.5", "tls_key": "key.pem", "tls_client_names": "a , b",
        "retain_days_by_service": f"KS{'0' * 32} = 5 ", "api_key": key,
    }  # fmt: skip
    plain = load_settings(None, **texts)
    for name, value in texts.items():
        monkeypatch.setenv(f"INTERACTION_SVC_{name.upper()}", f" {value}\n")
    assert load_settings().model_dump() == plain.model_dump()
    assert (plain.store, plain.tls_key) == ("sqlite:///other.db", Path("key.pem"))
    assert plain.retain_days_by_service == {f"KS{'0' * 32}": 5}
    assert load_settings(store="\tsqlite:///flag.db\r\n").store == "sqlite:///flag.db"
    monkeypatch.setenv("INTERACTION_SVC_GRPC_ADDRESS", " \n")
    file = tmp_path / "some.toml"
    file.write_text('grpc_address = "127.0.0.1:7\\n"\n')
    assert load_settings(Path(f"{file}\n")).grpc_address == "127.0.0.1:7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('grpc_adress = "x"', "grpc_adress: there is no such setting; there are store"),
        ("drain_seconds = 'soon'", "drain_seconds: .*number"),
        ("drain_seconds = 5000", "drain_seconds: .*3600"),
        ("store = ", "the settings file .*bad.toml: "),
    ],
)
def test_a_bad_settings_file_fails_with_its_reason(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_settings(file)


def test_the_settings_are_logged_without_passwords_in_urls(tmp_path: Path) -> None:
    with served(
        tmp_path,
        "--public-url",
        "https://log.example.com",
        env={"INTERACTION_SVC_DRAIN_SECONDS": "9", "INTERACTION_SVC_GRCP": "0"},
    ) as running:
        pass
    first, second, *_ = (json.loads(line) for line in running.log.read_text().splitlines())
    assert (first["drain_seconds"], first["public_url"]) == (9, "https://log.example.com")
    assert second["name"] == "INTERACTION_SVC_GRCP"
    hidden = Settings.model_construct(store="postgresql://user:pass@word@db/x").redacted()
    assert hidden["store"] == "postgresql://***@db/x"


def test_each_transport_can_be_served_alone(tmp_path: Path) -> None:
    with served(tmp_path, "--no-http") as running:
        assert running.grpc_address
    with served(tmp_path, "--no-grpc") as running:
        assert running.base_url


def test_every_setting_and_command_is_documented() -> None:
    configuration = (DOCS / "configuration.md").read_text()
    for name in Settings.model_fields:
        assert f"`{name}`" in configuration
        assert f"`INTERACTION_SVC_{name.upper()}`" in configuration
    listed = run("--help").stdout.decode().partition("Commands:")[2].partition("\n\n")[0]
    commands = re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE)
    reference = (DOCS / "cli.md").read_text()
    assert set(commands) == {
        "serve", "import", "export", "get", "list", "delete", "migrate",
        "keys", "backup", "copy", "purge", "erase",
    }  # fmt: skip
    for command in commands:
        assert f"interaction-svc {command}" in reference
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_examples_name_a_stored_session(tmp_path: Path) -> None:
    samples = str(SAMPLES / "clinic.jsonl")
    run("import", samples, "--store", f"sqlite:///{tmp_path}/interactions.db")
    with served(tmp_path, "--examples") as running:
        running.terminate()
        assert running.exit_status() == 0
        assert running.process.stdout is not None
        shown = running.process.stdout.read()
    assert "has 60 Interactions" in shown
    assert re.search(r"^grpcurl -plaintext .*ListInteractions$", shown, re.MULTILINE)
    assert re.search(r"^curl -u AC[0-9a-f]{32}:secret 'http://127", shown, re.MULTILINE)
    assert "client.proxy.base_url" in shown
