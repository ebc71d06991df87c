"""Accounts are isolated: no account can see, block or slow down another."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest
from testing.api_keys import IssuedKey, new_key
from testing.build import NOON_US, Parents, new_interaction, new_parents, new_sid
from testing.process import Served, served
from testing.requests import failure
from testing.stubs import Ingest, Reading

from interaction_svc.domain import timestamps
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.ingest_service_pb2 import (
    RecordInteractionRequest,
    RecordOutcome,
)
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    GetInteractionRequest,
    ListInteractionsRequest,
)
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

pytestmark = pytest.mark.each_engine

OWNER, OTHER = new_sid("AC"), new_sid("AC")


class Keys(NamedTuple):
    owner: IssuedKey
    other: IssuedKey
    admin: IssuedKey
    owner_ingest: IssuedKey
    other_ingest: IssuedKey


@pytest.fixture(scope="module")
def served_with_keys(
    tmp_path_factory: pytest.TempPathFactory, engine: str
) -> Iterator[tuple[Served, Keys]]:
    folder: Path = tmp_path_factory.mktemp("accounts")
    with served(folder) as running:
        yield (
            running,
            Keys(
                new_key(running.store, "operate", OWNER),
                new_key(running.store, "operate", OTHER),
                new_key(running.store, "admin"),
                new_key(running.store, "ingest", OWNER),
                new_key(running.store, "ingest", OTHER),
            ),
        )


@pytest.fixture
def keys(served_with_keys: tuple[Served, Keys]) -> Keys:
    return served_with_keys[1]


@pytest.fixture
async def channel(served_with_keys: tuple[Served, Keys]) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(served_with_keys[0].grpc_address) as opened:
        yield opened


@pytest.fixture
def reading(channel: grpc.aio.Channel) -> Reading:
    return InteractionServiceStub(channel)


@pytest.fixture
def ingest(channel: grpc.aio.Channel) -> Ingest:
    return IngestServiceStub(channel)


@pytest.fixture
async def http(served_with_keys: tuple[Served, Keys]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served_with_keys[0].base_url, trust_env=False) as client:
        yield client


@pytest.fixture
def parents() -> Parents:
    return new_parents(account_sid=OWNER)


def as_key(key: IssuedKey) -> tuple[tuple[str, str], ...]:
    return (("authorization", key.bearer),)


def get_request(parents: Parents, sid: str, account_sid: str = "") -> GetInteractionRequest:
    return GetInteractionRequest(
        service_sid=parents.service_sid,
        session_sid=parents.session_sid,
        sid=sid,
        account_sid=account_sid,
    )


def list_request(parents: Parents, **given: object) -> ListInteractionsRequest:
    return ListInteractionsRequest(
        service_sid=parents.service_sid,
        session_sid=parents.session_sid,
        **given,  # type: ignore[arg-type]
    )


async def both(
    ingest: Ingest, keys: Keys, parents: Parents, created_us: int = NOON_US
) -> tuple[pb.Interaction, pb.Interaction]:
    """Record the same SIDs in both accounts, first in the stranger's."""
    stranger = parents._replace(account_sid=OTHER)
    theirs = new_interaction(stranger, created_us, data="theirs")
    ours = new_interaction(parents, created_us, sid=theirs.sid, data="ours")
    for interaction, key in ((theirs, keys.other_ingest), (ours, keys.owner_ingest)):
        response = await ingest.RecordInteraction(
            RecordInteractionRequest(interaction=interaction), metadata=as_key(key)
        )
        assert response.outcome == RecordOutcome.RECORD_OUTCOME_CREATED
    return ours, theirs


async def test_an_account_that_records_sids_first_neither_blocks_nor_reveals(
    reading: Reading, ingest: Ingest, keys: Keys, parents: Parents
) -> None:
    ours, theirs = await both(ingest, keys, parents)
    for key, interaction in ((keys.owner, ours), (keys.other, theirs)):
        got = await reading.GetInteraction(get_request(parents, ours.sid), metadata=as_key(key))
        assert got.interaction == interaction
        page = await reading.ListInteractions(list_request(parents), metadata=as_key(key))
        assert list(page.interactions) == [interaction]


async def test_deletes_and_updates_affect_only_the_callers_account(
    reading: Reading, ingest: Ingest, keys: Keys, parents: Parents
) -> None:
    ours, theirs = await both(ingest, keys, parents)
    await reading.DeleteInteraction(
        DeleteInteractionRequest(
            service_sid=parents.service_sid, session_sid=parents.session_sid, sid=ours.sid
        ),
        metadata=as_key(keys.other),
    )
    got = await reading.GetInteraction(get_request(parents, ours.sid), metadata=as_key(keys.owner))
    assert got.interaction == ours
    # The stranger's tombstone does not block records of the owner.
    newer = pb.Interaction()
    newer.CopyFrom(ours)
    newer.data = "newer"
    for interaction, key, outcome in (
        (newer, keys.owner_ingest, RecordOutcome.RECORD_OUTCOME_UPDATED),
        (theirs, keys.other_ingest, RecordOutcome.RECORD_OUTCOME_DELETED),
    ):
        response = await ingest.RecordInteraction(
            RecordInteractionRequest(interaction=interaction), metadata=as_key(key)
        )
        assert response.outcome == outcome


async def test_an_admin_names_an_account_or_reads_all_in_order(
    reading: Reading, ingest: Ingest, keys: Keys, parents: Parents
) -> None:
    pairs = [await both(ingest, keys, parents, NOON_US + n // 2) for n in range(6)]
    every = sorted(
        (interaction for pair in pairs for interaction in pair),
        key=lambda one: (timestamps.to_us(one.create_time), one.sid, one.account_sid),
    )
    for order, wanted in ((1, every), (2, every[::-1])):
        for size in (1, 2, 5, 50):
            found: list[pb.Interaction] = []
            token = ""
            while True:
                request = list_request(parents, page_size=size, page_token=token, order=order)
                page = await reading.ListInteractions(request, metadata=as_key(keys.admin))
                found += page.interactions
                token = page.next_page_token
                if not token:
                    break
            assert found == wanted
    for place, account_sid in enumerate((OWNER, OTHER)):
        page = await reading.ListInteractions(
            list_request(parents, account_sid=account_sid), metadata=as_key(keys.admin)
        )
        wanted = [one for one in every if one.account_sid == account_sid]
        assert list(page.interactions) == wanted
        sid = pairs[0][place].sid
        got = await reading.GetInteraction(
            get_request(parents, sid, account_sid), metadata=as_key(keys.admin)
        )
        assert got.interaction == pairs[0][place]


async def test_a_sid_of_several_accounts_is_ambiguous_for_an_admin_who_names_none(
    reading: Reading, ingest: Ingest, keys: Keys, parents: Parents
) -> None:
    ours, _ = await both(ingest, keys, parents)
    delete = DeleteInteractionRequest(
        service_sid=parents.service_sid, session_sid=parents.session_sid, sid=ours.sid
    )
    for call in (
        reading.GetInteraction(get_request(parents, ours.sid), metadata=as_key(keys.admin)),
        reading.DeleteInteraction(delete, metadata=as_key(keys.admin)),
    ):
        code, reason, _ = await failure(call)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert reason == "ERROR_REASON_AMBIGUOUS_ACCOUNT"
    delete.account_sid = OTHER
    await reading.DeleteInteraction(delete, metadata=as_key(keys.admin))
    got = await reading.GetInteraction(get_request(parents, ours.sid), metadata=as_key(keys.admin))
    assert got.interaction == ours


async def test_a_key_may_name_its_own_account_and_no_other(
    reading: Reading, ingest: Ingest, keys: Keys, parents: Parents
) -> None:
    ours, _ = await both(ingest, keys, parents)
    upper = OWNER[:2] + OWNER[2:].upper()
    got = await reading.GetInteraction(
        get_request(parents, ours.sid, upper), metadata=as_key(keys.owner)
    )
    assert got.interaction == ours
    for call in (
        reading.GetInteraction(get_request(parents, ours.sid, OTHER), metadata=as_key(keys.owner)),
        reading.ListInteractions(
            list_request(parents, account_sid=OTHER), metadata=as_key(keys.owner)
        ),
    ):
        assert (await failure(call))[1] == "ERROR_REASON_PERMISSION_DENIED"
    malformed = reading.GetInteraction(
        get_request(parents, ours.sid, "AC1"), metadata=as_key(keys.admin)
    )
    assert (await failure(malformed))[1] == "ERROR_REASON_INVALID_FIELD"


async def test_a_page_token_is_bound_to_its_account(
    reading: Reading, ingest: Ingest, keys: Keys, parents: Parents
) -> None:
    for n in range(2):
        await both(ingest, keys, parents, NOON_US + n)
    page = await reading.ListInteractions(
        list_request(parents, page_size=1), metadata=as_key(keys.owner)
    )
    for key in (keys.other, keys.admin):
        call = reading.ListInteractions(
            list_request(parents, page_size=1, page_token=page.next_page_token),
            metadata=as_key(key),
        )
        _, reason, details = await failure(call)
        assert reason == "ERROR_REASON_PAGE_TOKEN_MISMATCH"
        assert dict(details["ErrorInfo"].metadata) == {"field": "account_sid"}  # type: ignore[attr-defined]


async def test_over_http_an_admin_names_the_account_as_a_parameter(
    http: httpx.AsyncClient, ingest: Ingest, keys: Keys, parents: Parents
) -> None:
    ours, theirs = await both(ingest, keys, parents)
    admin = httpx.BasicAuth(keys.admin.sid, keys.admin.secret)
    everything = (await http.get(parents.path, auth=admin)).json()["interactions"]
    assert {one["account_sid"] for one in everything} == {OWNER, OTHER}
    first = await http.get(parents.path, auth=admin, params={"AccountSid": OTHER, "PageSize": 1})
    assert [one["account_sid"] for one in first.json()["interactions"]] == [OTHER]
    assert f"AccountSid={OTHER}" in first.json()["meta"]["url"]

    path = f"{parents.path}/{ours.sid}"
    ambiguous = await http.get(path, auth=admin)
    assert (ambiguous.status_code, ambiguous.json()["code"]) == (409, 20409)
    assert "AccountSid" in ambiguous.json()["message"]
    got = await http.get(path, auth=admin, params={"AccountSid": OWNER})
    assert got.json()["account_sid"] == ours.account_sid
    deleted = await http.delete(path, auth=admin, params={"AccountSid": theirs.account_sid})
    assert deleted.status_code == 204
    assert (await http.get(path, auth=admin)).json()["data"] == "ours"

    owner = httpx.BasicAuth(keys.owner.sid, keys.owner.secret)
    assert (await http.get(path, auth=owner, params={"AccountSid": OTHER})).status_code == 403
    assert (await http.get(path, auth=owner, params={"AccountSid": OWNER})).status_code == 200
    for wrong in ("AC1", ""):
        for address in (path, parents.path):
            bad = await http.get(address, auth=owner, params={"AccountSid": wrong})
            assert (bad.status_code, bad.json()["code"]) == (400, 20001)
            assert bad.json()["message"].startswith("AccountSid: ")
