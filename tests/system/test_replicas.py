"""Reads from a replica over both transports: a read with a write's token sees the write."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from testing.build import Parents, new_interaction
from testing.postgres import PASSWORD, Cluster, free_port
from testing.process import Served, run, served
from testing.replication import Pair, pair, running_pair
from testing.requests import Code, failure, get_request, list_request
from testing.stubs import Ingest, Reading

from interaction_svc.app.consistency import CONSISTENCY_HEADER, decode_token, encode_token
from interaction_svc.store import UNKNOWN_REVISION, Revision
from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.telemetry.test_metrics import samples

__all__ = ["pair", "running_pair"]

BAD = "no-token-of-ours"


class Client(NamedTuple):
    server: Served
    reading: Reading
    ingest: Ingest
    http: httpx.AsyncClient

    async def reads(self) -> dict[str, float]:
        found = samples((await self.http.get(self.server.metrics_url)).text)
        return {
            f"{dict(labels)['server']}: {dict(labels)['reason']}": value
            for (name, labels), value in found.items()
            if name == "interaction_svc_replica_reads_total"
        }


@pytest.fixture
def database(pair: Pair) -> str:
    return pair.new_database()


@pytest.fixture
def replicated(pair: Pair, database: str, tmp_path: Path) -> Iterator[Served]:
    flags = (
        "--store", pair.primary.url(database), "--replica-store", pair.standby.url(database),
        "--replica-wait-seconds", "0.1",
    )  # fmt: skip
    with served(tmp_path, *flags) as server:
        pair.catch_up()
        yield server


@pytest.fixture
async def client(replicated: Served, parents: Parents) -> AsyncIterator[Client]:
    async with (
        grpc.aio.insecure_channel(replicated.grpc_address) as channel,
        httpx.AsyncClient(
            base_url=replicated.base_url, auth=(parents.account_sid, "x"), trust_env=False
        ) as http,
    ):
        reading, ingest = InteractionServiceStub(channel), IngestServiceStub(channel)
        yield Client(replicated, reading, ingest, http)


async def token_in(call: Any) -> str:
    """Return the consistency token in the trailers of a call. Check that they have a request id."""
    await call
    assert CONSISTENCY_HEADER not in dict(await call.initial_metadata())
    trailers = dict(await call.trailing_metadata())
    assert trailers["x-request-id"]
    return str(trailers[CONSISTENCY_HEADER])


def record_request(interaction: Any) -> ingest_pb.RecordInteractionRequest:
    return ingest_pb.RecordInteractionRequest(interaction=interaction)


async def test_over_grpc_a_token_makes_a_read_see_the_write(
    pair: Pair, client: Client, parents: Parents
) -> None:
    reading, ingest = client.reading, client.ingest
    first, one, many = (new_interaction(parents) for _ in range(3))
    await ingest.RecordInteraction(record_request(first))
    pair.catch_up()
    pair.standby.pause()
    token = await token_in(ingest.RecordInteraction(record_request(one)))
    assert (await failure(reading.GetInteraction(get_request(one))))[0] is Code.NOT_FOUND
    got = await reading.GetInteraction(get_request(one), metadata=[(CONSISTENCY_HEADER, token)])
    assert got.interaction == one

    batch = ingest_pb.RecordInteractionsRequest(interactions=[many])
    token = await token_in(ingest.RecordInteractions(iter([batch])))
    listed = await reading.ListInteractions(list_request(parents))
    assert [found.sid for found in listed.interactions] == [first.sid]
    listed = await reading.ListInteractions(
        list_request(parents), metadata=[(CONSISTENCY_HEADER, token)]
    )
    assert len(listed.interactions) == 3

    doomed = DeleteInteractionRequest(
        service_sid=first.service_sid, session_sid=first.session_sid, sid=first.sid
    )
    token = await token_in(reading.DeleteInteraction(doomed))
    assert (await reading.GetInteraction(get_request(first))).interaction == first
    gone = reading.GetInteraction(get_request(first), metadata=[(CONSISTENCY_HEADER, token)])
    assert (await failure(gone))[0] is Code.NOT_FOUND
    assert await client.reads() == {"replica: any": 3, "primary: behind": 3}

    pair.standby.resume()
    pair.catch_up()
    got = await reading.GetInteraction(get_request(one), metadata=[(CONSISTENCY_HEADER, token)])
    assert got.interaction == one
    read = reading.GetInteraction(get_request(one))
    assert (await read).interaction == one
    assert CONSISTENCY_HEADER not in dict(await read.trailing_metadata())
    assert await client.reads() == {
        "replica: any": 4, "primary: behind": 3, "replica: caught_up": 1,
    }  # fmt: skip


async def test_over_rest_a_token_makes_a_read_see_the_write(
    pair: Pair, client: Client, parents: Parents
) -> None:
    http = client.http
    interaction = new_interaction(parents)
    path = f"{parents.path}/{interaction.sid}"
    recorded = await token_in(client.ingest.RecordInteraction(record_request(interaction)))
    pair.catch_up()
    pair.standby.pause()
    assert (await http.get(path, headers={CONSISTENCY_HEADER: recorded})).status_code == 200
    deleted = await http.delete(path)
    assert deleted.status_code == 204
    headers = {"Interaction-Svc-Consistency": deleted.headers["interaction-svc-consistency"]}
    assert (await http.get(path, headers=headers)).status_code == 404
    assert (await http.get(parents.path, headers=headers)).json()["interactions"] == []
    stale = await http.get(path)
    assert stale.status_code == 200
    assert "interaction-svc-consistency" not in stale.headers
    assert len((await http.get(parents.path)).json()["interactions"]) == 1
    assert "interaction-svc-consistency" not in (await http.delete(path)).headers  # already deleted
    assert await client.reads() == {
        "replica: caught_up": 1, "primary: behind": 2, "replica: any": 2,
    }  # fmt: skip


async def test_an_empty_stream_and_a_delete_without_effect_return_a_token(
    client: Client, parents: Parents
) -> None:
    await token_in(client.ingest.RecordInteractions(iter([])))
    nothing = new_interaction(parents)
    doomed = DeleteInteractionRequest(
        service_sid=nothing.service_sid,
        session_sid=nothing.session_sid,
        sid=nothing.sid,
        allow_missing=True,
    )
    await token_in(client.reading.DeleteInteraction(doomed))


async def test_tokens_of_another_timeline_are_accepted_and_invalid_tokens_refused(
    client: Client, parents: Parents
) -> None:
    interaction = new_interaction(parents)
    token = await token_in(client.ingest.RecordInteraction(record_request(interaction)))
    revision = decode_token(token)
    before = await client.reads()
    for other in (
        revision._replace(system=revision.system ^ 1),
        revision._replace(timeline=revision.timeline + 1),
        UNKNOWN_REVISION,
    ):
        call = client.reading.GetInteraction(
            get_request(interaction), metadata=[(CONSISTENCY_HEADER, encode_token(other))]
        )
        assert (await call).interaction == interaction
    assert await client.reads() == {**before, "primary: unrelated": 3}
    await refuses_bad_tokens(client.reading, client.http, parents)


async def refuses_bad_tokens(reading: Reading, http: httpx.AsyncClient, parents: Parents) -> None:
    interaction = new_interaction(parents)
    for bad in (BAD, "", encode_token(Revision(1, 1, 1))[:-1]):
        for call in (
            reading.GetInteraction(get_request(interaction), metadata=[(CONSISTENCY_HEADER, bad)]),
            reading.ListInteractions(list_request(parents), metadata=[(CONSISTENCY_HEADER, bad)]),
        ):
            code, reason, details = await failure(call)
            assert (code, reason) == (Code.INVALID_ARGUMENT, "ERROR_REASON_INVALID_FIELD")
            (violation,) = details["BadRequest"].field_violations  # type: ignore[attr-defined]
            assert violation.field == CONSISTENCY_HEADER
        for path in (parents.path, f"{parents.path}/{interaction.sid}"):
            answer = await http.get(path, headers={CONSISTENCY_HEADER: bad})
            assert (answer.status_code, answer.json()["code"]) == (400, 20001)
            assert answer.json()["message"].startswith(CONSISTENCY_HEADER)


async def test_without_a_replica_writes_return_no_token_and_reads_accept_any_valid_one(
    reading: Reading, ingest: Ingest, http: httpx.AsyncClient, parents: Parents
) -> None:
    interaction = new_interaction(parents)
    call = ingest.RecordInteraction(record_request(interaction))
    await call
    assert CONSISTENCY_HEADER not in dict(await call.trailing_metadata())
    token = encode_token(Revision(1, 1, 2**60))
    got = await reading.GetInteraction(
        get_request(interaction), metadata=[(CONSISTENCY_HEADER, token)]
    )
    assert got.interaction == interaction
    path = f"{parents.path}/{interaction.sid}"
    assert (await http.get(path, headers={CONSISTENCY_HEADER: token})).status_code == 200
    assert CONSISTENCY_HEADER not in (await http.delete(path)).headers
    await refuses_bad_tokens(reading, http, parents)


async def test_a_dead_replica_does_not_make_the_service_unhealthy(
    pair: Pair, database: str, tmp_path: Path, parents: Parents
) -> None:
    gone = pair.standby.url(database).replace(f":{pair.standby.port}/", f":{free_port()}/")
    flags = ("--store", pair.primary.url(database), "--replica-store", gone)
    with served(tmp_path, *flags, "--workers", "2") as server:
        async with (
            grpc.aio.insecure_channel(server.grpc_address) as channel,
            httpx.AsyncClient(base_url=server.base_url, trust_env=False) as http,
        ):
            interaction = new_interaction(parents)
            token = await token_in(
                IngestServiceStub(channel).RecordInteraction(record_request(interaction))
            )
            reading = InteractionServiceStub(channel)
            for metadata in ([], [(CONSISTENCY_HEADER, token)]):
                got = await reading.GetInteraction(get_request(interaction), metadata=metadata)
                assert got.interaction == interaction
            assert (await http.get("/readyz")).status_code == 200
            reads: dict[str, float] = {}
            while sum(reads.values()) < 2:  # workers count after the response
                found = samples((await http.get(server.metrics_url)).text)
                reads = {
                    dict(labels)["reason"]: value
                    for (name, labels), value in found.items()
                    if name == "interaction_svc_replica_reads_total"
                }
    assert reads == {"away": 2}
    assert found["interaction_svc_replica_up", ()] == 0
    log = server.log.read_text()
    assert PASSWORD not in log
    assert PASSWORD.replace(" ", "%20") not in log
    said = [json.loads(line) for line in log.splitlines() if "can't be used" in line]
    assert len(said) == 3  # once by the supervisor, and once by each worker
    assert {"Connection refused" in line["cause"] for line in said} == {True}


def test_an_unsuitable_replica_is_refused(
    pair: Pair, database: str, cluster: Cluster, tmp_path: Path
) -> None:
    quiet = ("--no-http", "--no-metrics", "--grpc-address", "127.0.0.1:0")
    for flags, status, text in (
        (
            ("--store", f"sqlite:///{tmp_path}/a.db", "--replica-store", "postgresql://h/d"),
            2,
            "replica_store: only a postgresql:// store can have a replica",
        ),
        (
            ("--store", "postgresql://h/d", "--replica-store", "sqlite:///a.db"),
            2,
            "replica_store: 'sqlite:///a.db' is not the URL of a database",
        ),
        (
            ("--store", "postgresql://h/d", "--replica-wait-seconds", "31"),
            2,
            "replica_wait_seconds: ",
        ),
        (
            (
                *("--store", pair.primary.url(database)),
                *("--replica-store", cluster.url(cluster.new_database())),
            ),
            1,
            "is no replica of the store, but of another system",
        ),
    ):
        done = run("serve", *flags, *quiet)
        assert (done.returncode, text in done.stderr.decode()) == (status, True), done.stderr
        assert PASSWORD not in done.stderr.decode()
