"""Requests and responses of Connect as JSON."""

import orjson

from interaction_svc.codec.encoded import encoded_size
from interaction_svc.codec.proto_json import parse_json, print_interaction, print_json
from interaction_svc.transports.asgi.json_cache import JsonCache, split_rows
from interaction_svc.transports.rpc.method import Method
from interaction_svc.v1.interaction_service_pb2 import (
    GetInteractionResponse,
    ListInteractionsResponse,
)


class JsonMessages:
    """Converts messages between protobuf's encoding and JSON. The JSON of rows is cached."""

    def __init__(self) -> None:
        self._cache = JsonCache(print_interaction)

    def request(self, method: Method, text: bytes) -> bytes:
        """Return a request in protobuf's encoding. Raises InvalidField, MalformedRequest."""
        return parse_json(method.request, text).SerializeToString()

    def response(self, method: Method, message: bytes) -> bytes:
        """Return a response as JSON. Raises DataLoss."""
        if method.response is GetInteractionResponse:
            return b'{"interaction":%b}' % self._cache.render_item(message)
        if method.response is ListInteractionsResponse:
            return self._list(message)
        return print_json(method.response.FromString(message))

    def _list(self, message: bytes) -> bytes:
        """Return the JSON of a List response. Its encoding has the rows first, then the tokens."""
        encoded = split_rows(message)
        rows = self._cache.render_rows(encoded)
        tokens = ListInteractionsResponse.FromString(message[encoded_size(encoded) :])
        fields = [b'"interactions":[%b]' % b",".join(rows)] if rows else []
        if tokens.next_page_token:
            fields.append(b'"nextPageToken":%b' % orjson.dumps(tokens.next_page_token))
        if tokens.previous_page_token:
            fields.append(b'"previousPageToken":%b' % orjson.dumps(tokens.previous_page_token))
        return b"{%b}" % b",".join(fields)
