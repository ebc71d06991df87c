"""Metrics count calls, errors and rows, and contain no data of callers."""

from pathlib import Path

import grpc
import httpx
from prometheus_client.parser import text_string_to_metric_families
from testing.build import Parents, new_interaction
from testing.process import run, served
from testing.requests import failure, get_request, list_request

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

SERVICE = "interaction_svc.v1.InteractionService"


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_calls_errors_and_rows(tmp_path: Path, parents: Parents) -> None:
    with served(tmp_path, "--max-message-bytes", "70000") as server:
        async with (
            grpc.aio.insecure_channel(server.grpc_address) as channel,
            httpx.AsyncClient(
                base_url=server.base_url, auth=(parents.account_sid, "x"), trust_env=False
            ) as http,
        ):
            ingest, reading = IngestServiceStub(channel), InteractionServiceStub(channel)
            interactions = [new_interaction(parents) for _ in range(3)]
            await ingest.RecordInteractions(
                iter([ingest_pb.RecordInteractionsRequest(interactions=interactions)])
            )
            await reading.ListInteractions(list_request(parents, page_size=2))
            await failure(reading.GetInteraction(get_request(new_interaction(parents))))
            assert (await http.get(parents.path)).status_code == 200
            before = samples((await http.get(server.metrics_url)).text)
            log = server.store.with_name(f"{server.store.name}-wal")
            # Nothing is deleted yet, so that nothing truncates the log.
            assert before["interaction_svc_wal_bytes", ()] == log.stat().st_size > 0
            path = f"{parents.path}/{interactions[0].sid}"
            assert (await http.delete(path)).status_code == 204
            assert (await http.get(path)).status_code == 404
            assert (await http.get("/v1/nowhere")).status_code == 404
            assert (await http.post(parents.path)).status_code == 405
            text = (await http.get(server.metrics_url)).text
    found = samples(text)

    def value(name: str, **labels: str) -> float:
        return found[f"interaction_svc_{name}", tuple(sorted(labels.items()))]

    listed = {"transport": "grpc", "method": f"{SERVICE}/ListInteractions"}
    assert value("calls_total", **listed, code="OK") == 1
    assert value("call_duration_seconds_count", **listed) == 1
    assert value("calls_total", transport="http", method="list", code="200") == 1
    assert value("calls_total", transport="http", method="delete", code="204") == 1
    assert value("calls_total", transport="http", method="fetch", code="404") == 1
    assert value("calls_in_flight", transport="grpc") == 0
    not_found = "ERROR_REASON_INTERACTION_NOT_FOUND"
    assert value("errors_total", transport="grpc", reason=not_found) == 1
    assert value("errors_total", transport="http", reason=not_found) == 2
    not_allowed = "ERROR_REASON_METHOD_NOT_ALLOWED"
    assert value("errors_total", transport="http", reason=not_allowed) == 1
    assert value("page_interactions_sum") == 5
    assert value("page_interactions_count") == 2
    assert value("store_duration_seconds_count", operation="page") == 2
    assert value("store_duration_seconds_count", operation="record") == 1
    assert value("commit_rows_sum") >= 4
    assert value("commit_operations_count") >= 2
    assert value("waiting_rows") == 0
    assert value("waiting_bytes") == 0
    assert value("rows_erased_total", cause="call") == 1
    assert value("serving") == 1
    build = next(labels for name, labels in found if name == "interaction_svc_build_info")
    assert {name for name, _ in build} == {"version", "python", "sqlite"}
    for secret in (parents.account_sid, parents.session_sid, interactions[0].sid, "127.0.0.1"):
        assert secret not in text


def test_metrics_can_be_off_and_an_address_in_use_is_reported(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        address = server.metrics_url.removeprefix("http://").partition("/")[0]
        answer = run(
            "serve", "--store", f"sqlite:///{tmp_path}/other.db", "--grpc-address", "127.0.0.1:0",
            "--http-address", "127.0.0.1:0", "--metrics-address", address,
        )  # fmt: skip
        assert answer.returncode == 1
        assert f"can't listen for metrics on {address}" in answer.stderr.decode()
        other = tmp_path / "without"
        other.mkdir()
        with served(other, "--no-metrics") as without:
            assert without.metrics_url == ""
