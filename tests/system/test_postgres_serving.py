"""The service on PostgreSQL: a real server on a real database, over both transports."""

import json
from pathlib import Path

import grpc
import httpx
from testing.build import Parents, new_session
from testing.paths import SAMPLES
from testing.postgres import HOST, PASSWORD, Cluster
from testing.process import run, served
from testing.requests import record

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1 import interaction_service_pb2 as pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub


async def test_both_transports_serve_from_postgres(
    cluster: Cluster, tmp_path: Path, parents: Parents
) -> None:
    url = cluster.url(cluster.new_database())
    with served(tmp_path, "--store", url) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            made = new_session(parents, 25)
            await record(IngestServiceStub(channel), *made)
            reading = InteractionServiceStub(channel)
            sids, token = [], ""
            while True:
                page = await reading.ListInteractions(
                    pb.ListInteractionsRequest(
                        service_sid=parents.service_sid,
                        session_sid=parents.session_sid,
                        page_size=10,
                        page_token=token,
                    )
                )
                sids += [interaction.sid for interaction in page.interactions]
                token = page.next_page_token
                if not token:
                    break
            assert sids == [interaction.sid for interaction in made]
            got = await reading.GetInteraction(
                pb.GetInteractionRequest(
                    service_sid=parents.service_sid,
                    session_sid=parents.session_sid,
                    sid=made[3].sid,
                )
            )
            assert got.interaction == made[3]
        async with httpx.AsyncClient(
            base_url=server.base_url, auth=(parents.account_sid, "secret"), trust_env=False
        ) as http:
            listed = (await http.get(parents.path, params={"PageSize": 5, "Order": "desc"})).json()
            assert [one["sid"] for one in listed["interactions"]] == sids[:-6:-1]
            assert (await http.delete(f"{parents.path}/{made[3].sid}")).status_code == 204
            assert (await http.get(f"{parents.path}/{made[3].sid}")).status_code == 404
            assert (await http.get("/readyz")).status_code == 200
    log = server.log.read_text()
    assert PASSWORD not in log
    assert PASSWORD.replace(" ", "%20") not in log
    (settings,) = [
        line for line in map(json.loads, log.splitlines()) if line["event"] == "settings"
    ]
    assert settings["store"].startswith(f"postgresql://***@{HOST}:")


async def test_workers_share_a_database(cluster: Cluster, tmp_path: Path, parents: Parents) -> None:
    url = cluster.url(cluster.new_database())
    with served(tmp_path, "--store", url, "--workers", "2") as server:
        for _ in range(4):  # new connections, so that both workers get some
            async with grpc.aio.insecure_channel(
                server.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                answers = [
                    await IngestServiceStub(channel).RecordInteraction(
                        ingest_pb.RecordInteractionRequest(interaction=interaction)
                    )
                    for interaction in new_session(parents, 2)
                ]
                assert len(answers) == 2


def test_commands_work_on_postgres_as_on_a_file(cluster: Cluster, tmp_path: Path) -> None:
    url, copy = (cluster.url(cluster.new_database()) for _ in range(2))
    files = [str(file) for file in sorted(SAMPLES.glob("*.json*"))]

    def command(*arguments: str, store: str = url, status: int = 0) -> str:
        done = run(*arguments, "--store", store)
        assert done.returncode == status, done.stderr.decode()
        return done.stdout.decode()

    assert "schema 0 of 2" in command("migrate", "--check", status=1)
    assert "0 rows checked, 0 bad" in command("migrate")
    assert "300 created" in run("import", *files, "--store", url).stdout.decode()
    exported = tmp_path / "all.jsonl"
    exported.write_text(command("export"))
    assert exported.read_text().count("\n") > 250
    run("import", str(exported), "--store", copy)
    assert command("export", store=copy) == exported.read_text()
    assert "rows checked, 0 bad" in command("migrate", "--check")
    assert "deleted" in command("purge", "--retain-days", "1", "--dry-run")
    participant = json.loads(exported.read_text().splitlines()[0])["inbound_participant_sid"]
    assert "deleted" in command("erase", "--participant", participant)
    assert participant not in command("export")
    assert "secret" in command("keys", "create", "--role", "admin")
    assert "SK" in command("keys", "list")
    refused = run("backup", str(tmp_path / "copy.db"), "--store", url)
    assert refused.returncode == 1
    assert b"pg_basebackup" in refused.stderr
