"""Twilio's own SDKs and grpcurl, unmodified, against a served process."""

import json
import os
import shutil
import subprocess
from typing import Any

import pytest
from testing.build import Parents, new_interaction, new_session, new_sid
from testing.paths import ROOT
from testing.process import Served
from testing.requests import record
from testing.stubs import Ingest
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.rest import Client

from interaction_svc.v1 import interaction_pb2 as pb

NODE = ROOT / "tests" / "node"


@pytest.fixture
async def interactions(ingest: Ingest, parents: Parents) -> list[pb.Interaction]:
    """A Session of 23 Interactions, the last one-sided. A page with all of them is large."""
    made = new_session(parents, 23)
    made[-1].ClearField("inbound")
    for interaction in made:
        interaction.data = json.dumps({"body": "語" * 20_000}, ensure_ascii=False)
    await record(ingest, *made)
    return made


class TestPythonSdk:
    @pytest.fixture
    def client(self, server: Served, parents: Parents) -> Client:
        client = Client(parents.account_sid, "secret")
        client.proxy.base_url = server.base_url
        return client

    @pytest.fixture
    def session(self, client: Client, parents: Parents) -> Any:
        service = client.proxy.v1.services(parents.service_sid)
        return service.sessions(parents.session_sid).interactions

    def test_fetch(self, session: Any, interactions: list[pb.Interaction]) -> None:
        expected = interactions[0]
        fetched = session(expected.sid).fetch()
        assert fetched.sid == expected.sid
        assert fetched.type == "message"
        assert fetched.data == expected.data
        assert fetched.inbound_participant_sid == expected.inbound.participant_sid
        assert fetched.outbound_resource_status == "delivered"
        assert fetched.date_created == expected.create_time.ToDatetime(fetched.date_created.tzinfo)
        assert fetched.date_updated.tzinfo is not None
        one_sided = session(interactions[-1].sid).fetch()
        assert one_sided.inbound_resource_status is None

    def test_list_and_stream_over_several_pages(
        self, session: Any, interactions: list[pb.Interaction]
    ) -> None:
        expected = [interaction.sid for interaction in interactions]
        assert [row.sid for row in session.list(page_size=5)] == expected
        assert [row.sid for row in session.stream(page_size=5)] == expected
        assert [row.sid for row in session.list()] == expected
        assert [row.sid for row in session.list(limit=8, page_size=5)] == expected[:8]
        assert [row.sid for row in session.list(limit=5000)] == expected

    def test_pages_in_both_directions(
        self, session: Any, interactions: list[pb.Interaction]
    ) -> None:
        expected = [interaction.sid for interaction in interactions]
        first = session.page(page_size=9)
        second = first.next_page()
        third = second.next_page()
        assert [row.sid for row in third] == expected[18:]
        assert third.next_page() is None
        back = third.previous_page()
        assert [row.sid for row in back] == expected[9:18]
        assert [row.sid for row in back.previous_page()] == expected[:9]
        assert first.previous_page() is None
        assert [row.sid for row in session.get_page(second.next_page_url)] == expected[18:]

    def test_a_large_page_is_complete(
        self, session: Any, interactions: list[pb.Interaction]
    ) -> None:
        page = session.page(page_size=1000)
        assert [row.data for row in page] == [interaction.data for interaction in interactions]
        assert page.next_page() is None

    def test_other_resources_of_the_product_are_not_found(
        self, client: Client, parents: Parents
    ) -> None:
        service = client.proxy.v1.services(parents.service_sid)
        session = service.sessions(parents.session_sid)
        for call in (
            client.proxy.v1.services.list,
            lambda: client.proxy.v1.services.create(unique_name="mine"),
            service.fetch,
            service.phone_numbers.list,
            service.sessions.list,
            session.fetch,
            lambda: session.update(ttl=60),
            session.participants.list,
            session.participants(new_sid("KP")).message_interactions.list,
        ):
            with pytest.raises(TwilioException, match=r"404.* was not found"):
                call()

    def test_delete_and_not_found(self, session: Any, interactions: list[pb.Interaction]) -> None:
        sid = interactions[3].sid
        assert session(sid).delete() is True
        for call in (session(sid).fetch, session(sid).delete, session(new_sid("KI")).fetch):
            with pytest.raises(TwilioRestException) as caught:
                call()
            assert (caught.value.status, caught.value.code) == (404, 20404)
            assert "was not found" in caught.value.msg

    def test_bad_credentials_and_a_wrong_method(
        self, client: Client, server: Served, parents: Parents, interactions: list[pb.Interaction]
    ) -> None:
        stranger = Client("ACshort", "secret")
        stranger.proxy.base_url = server.base_url
        listing = stranger.proxy.v1.services(parents.service_sid).sessions(parents.session_sid)
        with pytest.raises(TwilioRestException) as caught:
            listing.interactions(interactions[0].sid).fetch()
        assert (caught.value.status, caught.value.code) == (401, 20003)
        # The SDK has no method for unsupported operations, so the test uses its HTTP client.
        response = client.request("POST", f"{server.base_url}{parents.path}")
        assert response.status_code == 405
        assert json.loads(response.text)["code"] == 20004


@pytest.mark.skipif(not (NODE / "node_modules/.stamp").exists(), reason="needs Node.js")
def test_node_sdk(server: Served, parents: Parents, interactions: list[pb.Interaction]) -> None:
    expected = [interaction.sid for interaction in interactions]
    command = ["node", "sdk.mjs", server.base_url, *parents]
    env = {name: value for name, value in os.environ.items() if not name.startswith("TWILIO_")}
    ran = subprocess.run(
        command, cwd=NODE, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    fetched = seen["fetched"]
    assert fetched["sid"] == expected[0]
    assert fetched["dateCreated"] == "2026-02-14T12:00:00.000Z"
    assert fetched["data"] == interactions[0].data
    assert seen["listed"] == seen["each"] == expected
    assert seen["firstPage"] == seen["backAgain"] == expected[:7]
    assert seen["secondPage"] == expected[7:14]
    assert seen["limited"] == expected[: len(seen["limited"])]
    assert seen["limited"]
    assert seen["limit5000"] == len(expected)
    assert seen["removed"] == expected[0]
    missing = {"status": 404, "code": 20404}
    assert seen["errors"] == {
        "removedFetched": missing,
        "removedAgain": missing,
        "unknown": missing,
        "credentials": {"status": 401, "code": 20003},
        "method": {"status": 405, "code": 20004},
    }


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="needs Go, to build grpcurl")
class TestGrpcurl:
    def grpcurl(self, server: Served, *arguments: str, data: object = None) -> Any:
        command = ["grpcurl", "-plaintext", "-format-error", "-emit-defaults"]
        if data is not None:
            command += ["-d", json.dumps(data)]
        return subprocess.run(
            [*command, server.grpc_address, *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def test_grpcurl_lists_the_services_by_reflection(self, server: Served) -> None:
        listed = self.grpcurl(server, "list").stdout.split()
        assert listed == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "interaction_svc.v1.IngestService",
            "interaction_svc.v1.InteractionService",
        ]
        described = self.grpcurl(server, "describe", "interaction_svc.v1.Interaction").stdout
        assert "create_time" in described
        assert self.grpcurl(server, "describe").returncode == 0
        for symbol, shown in (
            ("interaction_svc.v1.InteractionService.GetInteraction", "rpc GetInteraction ("),
            ("interaction_svc.v1.Interaction.sid", "string sid = "),
            ("interaction_svc.v1.ListInteractionsRequest.Order", "enum Order {"),
            ("interaction_svc.v1.INTERACTION_TYPE_VOICE", "INTERACTION_TYPE_VOICE = "),
            ("grpc.reflection.v1.ServerReflection", "rpc ServerReflectionInfo ("),
            ("grpc.reflection.v1alpha.ServerReflectionRequest.message_request", "oneof "),
            ("grpc.health.v1.Health.Check", "rpc Check ("),
            ("google.rpc.ErrorInfo", "message ErrorInfo {"),
        ):
            described = self.grpcurl(server, "describe", symbol)
            assert shown in described.stdout, described.stderr

    def test_grpcurl_records_lists_gets_and_deletes(self, server: Served, parents: Parents) -> None:
        service = "interaction_svc.v1.InteractionService"
        interaction = new_interaction(parents)
        given = {
            **parents._asdict(),
            "sid": interaction.sid,
            "type": "INTERACTION_TYPE_VOICE",
            "data": '{"duration":"5"}',
            "create_time": "2026-02-14T12:00:00.25Z",
            "outbound": {"resource_status": "RESOURCE_STATUS_BUSY"},
        }
        recorded = self.grpcurl(
            server,
            "interaction_svc.v1.IngestService/RecordInteraction",
            data={"interaction": given},
        )
        assert json.loads(recorded.stdout)["outcome"] == "RECORD_OUTCOME_CREATED"
        key = {
            "service_sid": parents.service_sid,
            "session_sid": parents.session_sid,
            "sid": interaction.sid,
        }
        got = json.loads(self.grpcurl(server, f"{service}/GetInteraction", data=key).stdout)
        assert got["interaction"]["create_time"] == "2026-02-14T12:00:00.250Z"
        assert got["interaction"]["inbound"] is None
        assert got["interaction"]["outbound"]["resource_status"] == "RESOURCE_STATUS_BUSY"
        del key["sid"]
        page = json.loads(self.grpcurl(server, f"{service}/ListInteractions", data=key).stdout)
        assert [row["sid"] for row in page["interactions"]] == [interaction.sid]
        key["sid"] = interaction.sid
        deleted = self.grpcurl(server, f"{service}/DeleteInteraction", data=key)
        assert (deleted.returncode, json.loads(deleted.stdout)) == (0, {})
        missing = self.grpcurl(server, f"{service}/GetInteraction", data=key)
        error = json.loads(missing.stderr)
        assert error["code"] == 5
        assert error["details"][0]["reason"] == "ERROR_REASON_INTERACTION_NOT_FOUND"
