"""Messages of Connect as JSON, with cached rows."""

import json

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from testing.build import new_interaction, new_parents
from testing.strategies import interactions, texts

from interaction_svc.codec.encoded import encode
from interaction_svc.domain.errors import DataLoss
from interaction_svc.transports.connect.json_messages import JsonMessages
from interaction_svc.transports.rpc.method import Method
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.interaction_service_pb2 import (
    DeleteInteractionRequest,
    DeleteInteractionResponse,
    GetInteractionRequest,
    GetInteractionResponse,
    ListInteractionsRequest,
    ListInteractionsResponse,
)


async def unused(_: bytes) -> bytes:
    raise AssertionError


GET = Method(unused, GetInteractionRequest, GetInteractionResponse)
LIST = Method(unused, ListInteractionsRequest, ListInteractionsResponse)
DELETE = Method(unused, DeleteInteractionRequest, DeleteInteractionResponse)


@given(st.lists(interactions(), max_size=4), texts, texts)
async def test_a_page_is_printed_as_by_the_library(
    page: list[pb.Interaction], following: str, preceding: str
) -> None:
    tokens = ListInteractionsResponse(next_page_token=following, previous_page_token=preceding)
    response = ListInteractionsResponse(
        interactions=page, next_page_token=following, previous_page_token=preceding
    )
    message = b"".join(map(encode, page)) + tokens.SerializeToString()
    printed = json.loads(JsonMessages().response(LIST, message))
    assert printed == json_format.MessageToDict(response)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_000, 16_383, 16_384, 2_100_000])
async def test_the_tokens_behind_rows_of_any_size_are_found(size: int) -> None:
    row = encode(new_interaction(new_parents(), data="x" * size))
    tokens = ListInteractionsResponse(next_page_token="token").SerializeToString()
    messages = JsonMessages()
    for _ in range(3):  # from the third time on the row is cached
        assert json.loads(messages.response(LIST, row * 2 + tokens))["nextPageToken"] == "token"


async def test_an_interaction_is_printed_as_by_the_library() -> None:
    interaction = new_interaction(new_parents())
    messages = JsonMessages()
    for _ in range(3):
        printed = json.loads(messages.response(GET, encode(interaction)))
        response = GetInteractionResponse(interaction=interaction)
        assert printed == json_format.MessageToDict(response)


async def test_an_empty_message_is_an_empty_object() -> None:
    assert JsonMessages().response(DELETE, b"") == b"{}"


async def test_a_damaged_row_is_data_loss() -> None:
    with pytest.raises(DataLoss):
        JsonMessages().response(LIST, b"\x0a\x02\xff\xff")
