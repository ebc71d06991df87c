"""The `keys` command: creating, listing and revoking keys."""

import json
import re
import sqlite3
from pathlib import Path

import grpc
import pytest
from testing import api_keys
from testing.api_keys import IssuedKey
from testing.build import Parents, new_interaction, new_parents, new_sid
from testing.log_lines import logged
from testing.process import run, served
from testing.requests import Code, failure, list_request

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub


def new_key(store: Path, *roles: str, account_sid: str | None = None) -> IssuedKey:
    account = () if account_sid is None else ("--account", account_sid)
    flags = [flag for role in roles for flag in ("--role", role)]
    made = run("keys", "create", "--store", f"sqlite:///{store}", *flags, *account, "--json")
    assert made.returncode == 0, made.stderr
    shown = json.loads(made.stdout)
    return IssuedKey(shown["sid"], shown["secret"])


def revoke(store: Path, key: IssuedKey) -> None:
    revoked = run("keys", "revoke", key.sid, "--store", f"sqlite:///{store}")
    assert revoked.returncode == 0, revoked.stderr


def test_the_secret_is_shown_once_and_kept_nowhere(tmp_path: Path) -> None:
    store = tmp_path / "interactions.db"
    key = new_key(store, "read", account_sid=new_sid("AC"))
    assert re.fullmatch("SK[0-9a-f]{32}", key.sid)
    assert re.fullmatch("[A-Za-z0-9]{32}", key.secret)
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key.sid.encode() in kept
    assert key.secret.encode() not in kept
    listed = run("keys", "list", "--store", f"sqlite:///{store}").stdout.decode()
    assert key.sid in listed
    assert key.secret not in listed


def test_keys_are_listed_and_revoked(tmp_path: Path) -> None:
    store = tmp_path / "interactions.db"
    account_sid = new_sid("AC")
    first, second = new_key(store, "read", account_sid=account_sid), new_key(store, "admin")
    revoke(store, first)
    revoke(store, first)
    listed = run("keys", "list", "--store", f"sqlite:///{store}")
    shown_first, shown_second = map(json.loads, listed.stdout.splitlines())
    assert (shown_first["sid"], shown_first["role"]) == (first.sid, "read")
    assert (shown_first["account_sid"], shown_second["account_sid"]) == (account_sid, None)
    assert shown_first["revoked"]
    assert (shown_second["sid"], shown_second["revoked"]) == (second.sid, None)
    table = run("keys", "list", "--table", "--store", f"sqlite:///{store}", COLUMNS="200")
    assert first.sid in table.stdout.decode()
    assert second.sid in table.stdout.decode()
    with sqlite3.connect(store) as db:
        revoked = db.execute("SELECT revoked_us FROM api_keys WHERE sid = ?", (first.sid,))
        assert revoked.fetchone()[0] is not None
    db.close()


async def test_a_key_with_several_roles_has_the_rights_of_each_and_no_more(
    tmp_path: Path, parents: Parents
) -> None:
    store = tmp_path / "interactions.db"
    key = new_key(store, "read", "ingest", "read", account_sid=parents.account_sid)
    with sqlite3.connect(store) as db:
        assert db.execute("SELECT role FROM api_keys").fetchone() == ("ingest,read",)
    db.close()
    listed = run("keys", "list", "--store", f"sqlite:///{store}").stdout
    assert json.loads(listed)["role"] == "ingest,read"
    interaction = new_interaction(parents)
    another = new_interaction(new_parents())
    with served(tmp_path, "--no-http", "--no-metrics") as server:
        metadata = [("authorization", key.basic)]
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            reading, ingest = InteractionServiceStub(channel), IngestServiceStub(channel)
            request = ingest_pb.RecordInteractionRequest(interaction=interaction)
            await ingest.RecordInteraction(request, metadata=metadata)
            page = await reading.ListInteractions(list_request(parents), metadata=metadata)
            assert [row.sid for row in page.interactions] == [interaction.sid]
            deletion = DeleteInteractionRequest(
                service_sid=parents.service_sid,
                session_sid=parents.session_sid,
                sid=interaction.sid,
            )
            code, _, _ = await failure(reading.DeleteInteraction(deletion, metadata=metadata))
            assert code is Code.PERMISSION_DENIED
            request = ingest_pb.RecordInteractionRequest(interaction=another)
            code, _, _ = await failure(ingest.RecordInteraction(request, metadata=metadata))
            assert code is Code.PERMISSION_DENIED


@pytest.mark.parametrize("role", ["read,watch", "watch", ""])
async def test_a_key_with_a_role_of_a_later_version_is_refused_and_logged(
    tmp_path: Path, parents: Parents, role: str
) -> None:
    store = tmp_path / "interactions.db"
    key = api_keys.new_key(store, "read", parents.account_sid)
    with sqlite3.connect(store) as db:
        db.execute("UPDATE api_keys SET role = ?", (role,))
    db.close()
    with served(tmp_path, "--no-http", "--no-metrics") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            call = InteractionServiceStub(channel).ListInteractions(
                list_request(parents), metadata=[("authorization", key.basic)]
            )
            code, _, _ = await failure(call)
        assert code is Code.UNAUTHENTICATED
    (line,) = logged(server, "key refused: a role of it is unknown to this version")
    assert (line["key_sid"], line["role"], line["level"]) == (key.sid, role, "error")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "--role", "read"], "--account: is required for a key with the role read"),
        (["create", "--role", "read", "--account", "AC1"], "--account: must match ^AC"),
        (["create", "--role", "root"], "'root' is not one of"),
        (["create"], "Missing option '--role'"),
        (
            ["create", "--role", "admin", "--role", "read"],
            "--role: admin has all permissions in all",
        ),
        (["create", "--role", "read", "--role", "ingest"], "for a key with the role ingest,read"),
        (["create", "--role", "read", "--account", "7"], "--account: must match ^AC"),
        (["revoke", "SK1"], "SK...: must match ^SK"),
        (["revoke", "SK" + "0" * 32], "there is no key SK0"),
    ],
)
def test_a_wrong_use_of_keys_fails_with_status_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    store = tmp_path / "interactions.db"
    api_keys.new_key(store, "admin")
    answer = run("keys", *arguments, "--store", f"sqlite:///{store}")
    assert answer.returncode == 2
    assert message in " ".join(answer.stderr.decode().split())


@pytest.mark.parametrize("arguments", [("list",), ("revoke", "SK" + "0" * 32)])
def test_keys_list_and_revoke_create_no_store(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    answer = run("keys", *arguments, "--store", f"sqlite:///{tmp_path}/misspelt.db")
    assert answer.returncode == 1
    assert "misspelt.db" in answer.stderr.decode()
    assert not list(tmp_path.iterdir())
