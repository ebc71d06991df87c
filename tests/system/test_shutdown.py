"""Shutdown by SIGTERM: running calls finish, new ones are refused, the exit status is 0."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from testing.build import Parents, new_interaction, new_sid
from testing.process import Served, run, served
from testing.store_lock import write_lock

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import ListInteractionsRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine


async def is_refused(address: str, parents: Parents) -> bool:
    """Return whether a new call on a new connection is refused."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            await InteractionServiceStub(channel).ListInteractions(
                ListInteractionsRequest(
                    service_sid=parents.service_sid, session_sid=parents.session_sid
                ),
                timeout=0.5,  # a call at the time of the stop may hang; the next one is refused
            )
        except grpc.aio.AioRpcError as error:
            return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return False


async def until_refused(address: str, parents: Parents) -> None:
    async with asyncio.timeout(20):
        while not await is_refused(address, parents):
            await asyncio.sleep(0.01)


async def exit_status(server: Served) -> int:
    return await asyncio.to_thread(server.exit_status)


async def test_calls_finish_and_new_ones_are_refused(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path) as server:
        async with (
            grpc.aio.insecure_channel(server.grpc_address) as channel,
            httpx.AsyncClient(
                base_url=server.base_url, auth=(parents.account_sid, "x"), trust_env=False
            ) as http,
        ):
            ingest = IngestServiceStub(channel)
            deleted = new_interaction(parents)
            await ingest.RecordInteraction(ingest_pb.RecordInteractionRequest(interaction=deleted))

            stream = ingest.RecordInteractions()
            await stream.write(
                ingest_pb.RecordInteractionsRequest(interactions=[new_interaction(parents)])
            )
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING

            with write_lock(server):
                delete = asyncio.create_task(http.delete(f"{parents.path}/{deleted.sid}"))
                request = ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
                recording = asyncio.ensure_future(ingest.RecordInteraction(request))
                await until_waiting(channel, http, parents)
                server.terminate()
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                await until_refused(server.grpc_address, parents)
                with pytest.raises(httpx.ConnectError):
                    await until_http_is_refused(server, parents)
                assert not delete.done()
                assert not recording.done()
            assert (await delete).status_code == 204
            assert (await recording).outcome == ingest_pb.RECORD_OUTCOME_CREATED
            await stream.write(
                ingest_pb.RecordInteractionsRequest(interactions=[new_interaction(parents)])
            )
            await stream.done_writing()
            assert (await stream).created == 2
        assert await exit_status(server) == 0
    with sqlite3.connect(server.store) as db:
        assert db.execute("SELECT count(*) FROM interactions").fetchone() == (3,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


async def test_shutdown_waits_for_an_http_request(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path) as server:
        interaction = new_interaction(parents)
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            await IngestServiceStub(channel).RecordInteraction(
                ingest_pb.RecordInteractionRequest(interaction=interaction)
            )
        async with httpx.AsyncClient(
            base_url=server.base_url, auth=(parents.account_sid, "x"), trust_env=False
        ) as http:
            with write_lock(server):
                delete = asyncio.create_task(http.delete(f"{parents.path}/{interaction.sid}"))
                for _ in range(3):
                    assert (await http.get(parents.path)).status_code == 200
                server.terminate()
                with pytest.raises(httpx.ConnectError):
                    await until_http_is_refused(server, parents)
                assert not delete.done()
            assert (await delete).status_code == 204
        assert await exit_status(server) == 0


async def until_waiting(
    channel: grpc.aio.Channel, http: httpx.AsyncClient, parents: Parents
) -> None:
    """Wait until the server has read everything that was sent on both connections."""
    for _ in range(3):
        await InteractionServiceStub(channel).ListInteractions(
            ListInteractionsRequest(
                service_sid=parents.service_sid, session_sid=parents.session_sid
            )
        )
        assert (await http.get(parents.path)).status_code == 200


async def until_http_is_refused(server: Served, parents: Parents) -> None:
    async with asyncio.timeout(20):
        while True:
            # A connection that is accepted at the time of the stop is closed without a response.
            with suppress(httpx.RemoteProtocolError, httpx.ReadError):
                async with httpx.AsyncClient(trust_env=False) as client:
                    await client.get(f"{server.base_url}{parents.path}")
            await asyncio.sleep(0.01)


async def test_calls_beyond_the_drain_time_are_cut_off(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path, "--drain-seconds", "0.3") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stream = IngestServiceStub(channel).RecordInteractions()
            await stream.write(
                ingest_pb.RecordInteractionsRequest(interactions=[new_interaction(parents)])
            )
            # Its first request is on disk once a later call sees it.
            await until_recorded(channel, parents)
            server.terminate()
            with pytest.raises(grpc.aio.AioRpcError):
                await stream
        assert await exit_status(server) == 0
    with sqlite3.connect(server.store) as db:
        assert db.execute("SELECT count(*) FROM interactions").fetchone() == (1,)
    db.close()


def test_a_failed_start_ends_at_once(tmp_path: Path) -> None:
    """If the server waited for the drain delay, run() would time out."""
    with served(tmp_path) as server:
        other = tmp_path / "other"
        other.mkdir()
        answer = run(
            "serve", "--store", f"sqlite:///{other}/interactions.db",
            "--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0",
            "--http-address", server.base_url.removeprefix("http://"),
            "--drain-delay-seconds", "600",
        )  # fmt: skip
        assert answer.returncode == 1
        assert b"can't listen for HTTP" in answer.stderr


async def test_a_request_that_the_drain_cuts_off_gets_an_error(
    tmp_path: Path, parents: Parents
) -> None:
    with served(tmp_path, "--drain-seconds", "0.3") as server:
        async with httpx.AsyncClient(
            base_url=server.base_url, auth=(parents.account_sid, "x"), trust_env=False
        ) as http:
            with write_lock(server):
                path = f"{parents.path}/{new_sid('KI')}"
                delete = asyncio.create_task(http.delete(path))
                await until_in_flight(server)
                server.terminate()
                response = await delete
            assert response.status_code == 503
            assert response.json()["code"] == 20503
        assert await exit_status(server) == 0


async def until_in_flight(server: Served) -> None:
    async with asyncio.timeout(4), httpx.AsyncClient(trust_env=False) as http:
        while True:
            text = (await http.get(server.metrics_url)).text
            if 'interaction_svc_calls_in_flight{transport="http"} 1.0' in text:
                return
            await asyncio.sleep(0.01)


async def until_recorded(channel: grpc.aio.Channel, parents: Parents) -> None:
    request = ListInteractionsRequest(
        service_sid=parents.service_sid, session_sid=parents.session_sid
    )
    async with asyncio.timeout(20):
        while not (await InteractionServiceStub(channel).ListInteractions(request)).interactions:
            await asyncio.sleep(0.01)


async def test_streams_without_an_end_do_not_delay_shutdown(tmp_path: Path) -> None:
    """If the server waited for them, exit_status() would time out."""
    with served(tmp_path, "--drain-seconds", "3600") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            raw: Any = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            )
            reflection = raw()
            await reflection.write(b"\x3a\x00")  # list_services
            assert await reflection.read()
            server.terminate()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            for stream in (watch, reflection):
                assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert await exit_status(server) == 0


async def test_a_second_signal_ends_the_server_at_once(tmp_path: Path, parents: Parents) -> None:
    status = 128 + signal.SIGINT
    with served(tmp_path, "--drain-seconds", "3600", status=status) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stream = IngestServiceStub(channel).RecordInteractions()
            await stream.write(
                ingest_pb.RecordInteractionsRequest(interactions=[new_interaction(parents)])
            )
            await until_recorded(channel, parents)
            with write_lock(server):
                request = ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents))
                given_up = asyncio.ensure_future(
                    IngestServiceStub(channel).RecordInteraction(request)
                )
                server.terminate()
                await until_refused(server.grpc_address, parents)
                given_up.cancel()  # its write still waits for the lock
                server.process.send_signal(signal.SIGINT)
                assert await exit_status(server) == status
    with sqlite3.connect(server.store) as db:
        assert db.execute("SELECT count(*) FROM interactions").fetchone() == (1,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


async def test_idle_connections_do_not_delay_shutdown(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path) as server:
        async with (
            grpc.aio.insecure_channel(server.grpc_address) as channel,
            httpx.AsyncClient(auth=(parents.account_sid, "x"), trust_env=False) as http,
        ):
            await channel.channel_ready()
            await http.get(f"{server.base_url}{parents.path}")
            _, half_open = await asyncio.open_connection(
                *server.base_url.removeprefix("http://").split(":")
            )
            half_open.write(b"GET / HTTP/1.1\r\nHost:")
            await half_open.drain()
            server.terminate()
            assert await exit_status(server) == 0
            half_open.close()


async def test_recorded_interactions_survive_a_restart(tmp_path: Path, parents: Parents) -> None:
    interaction = new_interaction(parents)

    async def record(server: Served) -> int:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            response = await IngestServiceStub(channel).RecordInteraction(
                ingest_pb.RecordInteractionRequest(interaction=interaction)
            )
            return response.outcome

    with served(tmp_path) as server:
        assert await record(server) == ingest_pb.RECORD_OUTCOME_CREATED
    with served(tmp_path) as server:
        assert await record(server) == ingest_pb.RECORD_OUTCOME_UNCHANGED


async def test_a_disconnected_client_leaves_the_service_usable(
    tmp_path: Path, parents: Parents
) -> None:
    async def gone(number: int, channel: grpc.aio.Channel) -> AsyncIterator[None]:
        call = IngestServiceStub(channel).RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=new_interaction(parents)),
            timeout=0.001 * (number % 20),
        )
        with suppress(grpc.aio.AioRpcError):
            await call
        yield

    with served(tmp_path) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            for number in range(100):
                async for _ in gone(number, channel):
                    pass
            interaction = new_interaction(parents)
            response = await IngestServiceStub(channel).RecordInteraction(
                ingest_pb.RecordInteractionRequest(interaction=interaction)
            )
            assert response.outcome == ingest_pb.RECORD_OUTCOME_CREATED
    assert "internal error" not in server.log.read_text()
