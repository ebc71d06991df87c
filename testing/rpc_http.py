"""A client of Connect and gRPC-Web. It follows the specifications and shares no service code."""

import base64
import gzip
import json
import re
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

import httpx
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

PROTOCOLS = (
    "connect+json",
    "connect+proto",
    "connect+get+json",
    "connect+get+proto",
    "web",
    "text",
)
"""The protocols and encodings; GET works only for methods without side effects."""


class RpcAnswer(NamedTuple):
    """The result of a call."""

    code: str
    """The gRPC code, such as NOT_FOUND."""
    text: str
    """The error message."""
    details: list[tuple[str, bytes]]
    """The type and the bytes of each detail of an error."""
    message: bytes
    """The response in protobuf's encoding; empty for an error."""
    http: httpx.Response
    metadata: Mapping[str, str]
    """The headers in Connect; the trailers in gRPC-Web."""


async def call(
    http: httpx.AsyncClient,
    protocol: str,
    method: str,
    request: Message,
    response: type[Message],
    *,
    headers: Mapping[str, str] | None = None,
    compress: str = "",
) -> RpcAnswer:
    """Call `package.Service/Method` and return its outcome."""
    sent = {**(headers or {})}
    if protocol.startswith("connect+get"):
        answer = await _get(http, protocol.endswith("json"), method, request, sent, compress)
    elif protocol.startswith("connect"):
        body = _encoded(request, protocol.endswith("json"))
        if compress:
            sent["content-encoding"] = compress
            body = compressed(body, compress)
        sent["content-type"] = f"application/{protocol.partition('+')[2]}"
        answer = await http.post(f"/{method}", content=body, headers=sent)
    else:
        return await _call_web(http, protocol == "text", method, request, sent, compress)
    if answer.status_code == 200:
        assert answer.headers["content-type"] == f"application/{protocol.rpartition('+')[2]}"
        body = answer.content
        if protocol.endswith("json"):
            body = json_format.Parse(body, response()).SerializeToString()
        return RpcAnswer("OK", "", [], body, answer, answer.headers)
    error = answer.json()
    details = [
        (detail["type"], base64.b64decode(detail["value"] + "==")) for detail in error["details"]
    ]
    return RpcAnswer(error["code"].upper(), error["message"], details, b"", answer, answer.headers)


async def _get(
    http: httpx.AsyncClient,
    is_json: bool,
    method: str,
    request: Message,
    headers: dict[str, str],
    compress: str,
) -> httpx.Response:
    message = _encoded(request, is_json)
    query = {"connect": "v1", "encoding": "json" if is_json else "proto"}
    if compress:
        query["compression"] = compress
        message = compressed(message, compress)
    if compress or not is_json:
        query["base64"] = "1"
        query["message"] = base64.urlsafe_b64encode(message).rstrip(b"=").decode()
    else:
        query["message"] = message.decode()
    return await http.get(f"/{method}", params=query, headers=headers)


async def _call_web(
    http: httpx.AsyncClient,
    is_text: bool,
    method: str,
    request: Message,
    headers: dict[str, str],
    compress: str,
) -> RpcAnswer:
    message = request.SerializeToString()
    if compress:
        headers["grpc-encoding"] = compress
        message = compressed(message, compress)
    body = struct.pack(">BI", bool(compress), len(message)) + message
    kind = "application/grpc-web-text" if is_text else "application/grpc-web+proto"
    if is_text:
        body = base64.b64encode(body)
    headers = {**headers, "content-type": kind, "x-grpc-web": "1"}
    answer = await http.post(f"/{method}", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    received = base64.b64decode(answer.content) if is_text else answer.content
    messages, trailers = [], None
    while received:
        flags, size = struct.unpack_from(">BI", received)
        part, received = received[5 : 5 + size], received[5 + size :]
        assert trailers is None, "a frame follows the trailers"
        if flags == 0x80:
            trailers = dict(line.split(": ", 1) for line in part.decode().splitlines())
        else:
            assert flags == 0
            messages.append(part)
    assert trailers is not None, "there are no trailers"
    code = code_pb2.Code.Name(int(trailers["grpc-status"]))
    if code == "OK":
        (only,) = messages
        return RpcAnswer("OK", "", [], only, answer, trailers)
    assert not messages
    status = status_pb2.Status.FromString(
        base64.b64decode(trailers["grpc-status-details-bin"] + "==")
    )
    text = unquote(trailers["grpc-message"])
    assert (code_pb2.Code.Name(status.code), status.message) == (code, text)
    details = [(each.type_url.rpartition("/")[2], each.value) for each in status.details]
    return RpcAnswer(code, text, details, b"", answer, trailers)


STREAM_PROTOCOLS = ("stream+json", "stream+proto", "web", "text")
"""The protocols and encodings of streams; `stream` is Connect."""
_KINDS = {
    "stream+json": "application/connect+json",
    "stream+proto": "application/connect+proto",
    "web": "application/grpc-web+proto",
    "text": "application/grpc-web-text",
}


class StreamAnswer(NamedTuple):
    """The result of a call with a stream."""

    code: str
    """The gRPC code, such as NOT_FOUND."""
    text: str
    details: list[tuple[str, bytes]]
    messages: list[bytes]
    """The responses in protobuf's encoding."""
    metadata: Mapping[str, str]


@asynccontextmanager
async def opened_stream(
    http: httpx.AsyncClient,
    protocol: str,
    method: str,
    *requests: Message,
    headers: Mapping[str, str] | None = None,
    body: AsyncIterator[bytes] | None = None,
    compress: str = "",
) -> AsyncIterator[httpx.Response]:
    """Call a method with a stream. `body` replaces the frames of `requests`."""
    sent = {**(headers or {}), "content-type": _KINDS[protocol]}
    if compress:
        name = "grpc-encoding" if protocol in ("web", "text") else "connect-content-encoding"
        sent[name] = compress
    frames = b"".join(request_frame(protocol, each, compress=compress) for each in requests)
    content = frames if body is None else body
    async with http.stream("POST", f"/{method}", content=content, headers=sent) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, _KINDS[protocol])
        yield answer


def request_frame(protocol: str, request: Message, *, compress: str = "") -> bytes:
    """Return a request with its prefix, as it is sent."""
    message = _encoded(request, protocol == "stream+json")
    if compress:
        message = compressed(message, compress)
    framed = struct.pack(">BI", bool(compress), len(message)) + message
    return base64.b64encode(framed) if protocol == "text" else framed


async def call_stream(
    http: httpx.AsyncClient,
    protocol: str,
    method: str,
    response: type[Message],
    *requests: Message,
    **given: Any,
) -> StreamAnswer:
    """Call a method with a stream, and return its outcome."""
    async with opened_stream(http, protocol, method, *requests, **given) as answer:
        received = await answer.aread()
    if protocol == "text":
        parts = re.findall(rb"[^=]+=*", received)
        received = b"".join(base64.b64decode(part, validate=True) for part in parts)
    frames = []
    while received:
        flags, size = struct.unpack_from(">BI", received)
        frames.append((flags, received[5 : 5 + size]))
        received = received[5 + size :]
    *messages, (flags, last) = frames
    assert all(not flag for flag, _ in messages)
    found = [message for _, message in messages]
    if protocol in ("web", "text"):
        assert flags == 0x80
        trailers = dict(line.split(": ", 1) for line in last.decode().splitlines())
        code = code_pb2.Code.Name(int(trailers["grpc-status"]))
        packed = trailers.get("grpc-status-details-bin", "")
        status = status_pb2.Status.FromString(base64.b64decode(packed + "=="))
        details = [(each.type_url.rpartition("/")[2], each.value) for each in status.details]
        return StreamAnswer(
            code, unquote(trailers.get("grpc-message", "")), details, found, trailers
        )
    assert flags == 0x02
    end = json.loads(last)
    metadata = {name: value for name, (value,) in end["metadata"].items()}
    if protocol.endswith("json"):
        found = [json_format.Parse(each, response()).SerializeToString() for each in found]
    error = end.get("error")
    if error is None:
        return StreamAnswer("OK", "", [], found, metadata)
    details = [(each["type"], base64.b64decode(each["value"] + "==")) for each in error["details"]]
    return StreamAnswer(error["code"].upper(), error["message"], details, found, metadata)


def compressed(message: bytes, encoding: str) -> bytes:
    """Return a message compressed with gzip or deflate; unchanged for another encoding."""
    if encoding == "gzip":
        return gzip.compress(message)
    return zlib.compress(message) if encoding == "deflate" else message


def _encoded(message: Message, is_json: bool) -> bytes:
    if is_json:
        fields: dict[str, Any] = json_format.MessageToDict(message)
        return json.dumps(fields).encode()
    return message.SerializeToString()
