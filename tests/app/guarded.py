"""A server with keys, and a call of each of its methods."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from testing.api_keys import IssuedKey, new_key
from testing.build import Parents, new_interaction, new_parents
from testing.process import Served, served
from testing.requests import get_request, list_request

from interaction_svc.v1 import ingest_service_pb2 as ingest_pb
from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceStub
from interaction_svc.v1.interaction_service_pb2 import DeleteInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub

ROLES = ("read", "operate", "ingest", "admin")


class Guarded(NamedTuple):
    """A server with one key of each role, all of the same account."""

    server: Served
    parents: Parents
    keys: dict[str, IssuedKey]


def serve_with_keys(folder: Path, times: Mapping[str, float] | None = None) -> Iterator[Guarded]:
    parents = new_parents()
    keys = {role: new_key(folder / "interactions.db", role, parents.account_sid) for role in ROLES}
    with served(folder, times=times) as server:
        yield Guarded(server, parents, keys)


def calls(channel: grpc.aio.Channel, parents: Parents) -> dict[str, Callable[..., Any]]:
    """Return a call of each RPC that succeeds if the caller has permission."""
    reading, ingest = InteractionServiceStub(channel), IngestServiceStub(channel)
    interaction = new_interaction(parents)
    return {
        "get": lambda **given: reading.GetInteraction(get_request(interaction), **given),
        "list": lambda **given: reading.ListInteractions(list_request(parents), **given),
        "delete": lambda **given: reading.DeleteInteraction(
            DeleteInteractionRequest(
                service_sid=parents.service_sid,
                session_sid=parents.session_sid,
                sid=interaction.sid,
                allow_missing=True,
            ),
            **given,
        ),
        "record": lambda **given: ingest.RecordInteraction(
            ingest_pb.RecordInteractionRequest(interaction=interaction), **given
        ),
        # Without requests, because grpc's client reports INTERNAL if a call is refused before its
        # first write.
        "stream": lambda **given: ingest.RecordInteractions(timeout=20, **given),
    }


def shown(authorization: str) -> list[tuple[str, str]]:
    return [("authorization", authorization)]
