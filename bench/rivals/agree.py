"""Checks that two servers return the same responses, so that their costs can be compared."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import grpc
import httpx

from interaction_svc.v1.interaction_pb2 import Interaction
from interaction_svc.v1.interaction_service_pb2 import (
    GetInteractionRequest,
    GetInteractionResponse,
    ListInteractionsRequest,
    ListInteractionsResponse,
)

_SERVICE = "/interaction_svc.v1.InteractionService"
_ORIGIN = re.compile("https?://[^/]+")
_TIMEOUT_SECONDS = 30.0

ReadRequest = GetInteractionRequest | ListInteractionsRequest


class GrpcServer(NamedTuple):
    """The address, HOST:PORT, and the metadata of requests."""

    address: str
    metadata: Sequence[tuple[str, str]] = ()


class RestServer(NamedTuple):
    """The base URL, http://HOST:PORT, and the Authorization header of requests."""

    base_url: str
    authorization: str = ""


class DisagreementError(AssertionError):
    """Two servers answered the same request differently."""


def agree_grpc(
    ours: GrpcServer, theirs: GrpcServer, requests: Iterable[ReadRequest], *, pages: int = 1
) -> None:
    """Send both the same requests, and compare all fields of all Interactions, and their order.

    At most `pages` pages of a list are compared. Page tokens may differ, but both servers must
    return one, or neither. Raises DisagreementError, grpc.RpcError.
    """
    with (
        grpc.insecure_channel(ours.address) as one,
        grpc.insecure_channel(theirs.address) as other,
    ):
        for request in requests:
            found = _interactions(one, ours, request, pages)
            if not found:
                raise DisagreementError(f"{ours.address} has nothing to compare")
            if found != _interactions(other, theirs, request, pages):
                kind = type(request).__name__
                raise DisagreementError(f"{theirs.address}: not the same answer to a {kind}")


def agree_rest(
    ours: RestServer, theirs: RestServer, paths: Iterable[str], *, pages: int = 1
) -> None:
    """Get the same paths of both, and compare the JSON.

    As in agree_grpc, tokens may differ, and also the hosts in links. Raises DisagreementError,
    httpx.HTTPError.
    """
    with httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False) as http:
        for path in paths:
            if _resources(http, ours, path, pages) == _resources(http, theirs, path, pages):
                continue
            raise DisagreementError(f"{theirs.base_url}: not the same answer to {path}")


def _interactions(
    channel: grpc.Channel, server: GrpcServer, request: ReadRequest, pages: int
) -> list[Interaction | bool]:
    """Return the Interactions of a response, and for each page whether there is a next one."""

    def ask(method: str, asked: ReadRequest) -> bytes:
        call: Any = channel.unary_unary(f"{_SERVICE}/{method}")
        answer: bytes = call(
            asked.SerializeToString(), metadata=server.metadata, timeout=_TIMEOUT_SECONDS
        )
        return answer

    if isinstance(request, GetInteractionRequest):
        return [GetInteractionResponse.FromString(ask("GetInteraction", request)).interaction]
    found: list[Interaction | bool] = []
    following = ListInteractionsRequest()
    following.CopyFrom(request)
    for _ in range(pages):
        page = ListInteractionsResponse.FromString(ask("ListInteractions", following))
        found += [*page.interactions, bool(page.next_page_token)]
        if not page.next_page_token:
            break
        following.page_token = page.next_page_token
    return found


def _resources(http: httpx.Client, server: RestServer, path: str, pages: int) -> list[Any]:
    """Return the JSON of a path and of the pages after it, without hosts and page tokens."""
    found = []
    for _ in range(pages):
        response = http.get(server.base_url + path, headers={"Authorization": server.authorization})
        answer = response.raise_for_status().json()
        meta = answer.get("meta")
        found.append(answer)
        for resource in (answer,) if meta is None else answer["interactions"]:
            resource["url"] = _ORIGIN.sub("", resource["url"], count=1)
        if meta is None:
            break
        next_url = meta["next_page_url"]
        del meta["previous_page_url"]  # rivals have no previous pages
        for name in ("first_page_url", "url", "next_page_url"):
            meta[name] = meta[name] and _without_token(meta[name])
        if next_url is None:
            break
        path = _ORIGIN.sub("", next_url, count=1)
    return found


def _without_token(link: str) -> str:
    return re.sub("&PageToken=[^&]*", "", _ORIGIN.sub("", link, count=1))
