"""Reads resources in the vendor's JSON from a stream, in bounded memory.

The content decides whether the stream is one document or JSON lines. A document is one resource, a
list of them, a list page with its envelope, or several of these in a row. In JSON lines each line
is one of these, and an invalid line does not affect others. Text is UTF-8, or UTF-16 with a byte
order mark.
"""

import io
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO, NamedTuple

import ijson
import orjson

from interaction_svc.codec.twilio_json import LIST_KEY, PROPERTY_OF
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.transfer.file_kinds import as_utf8, is_utf16, name_of_kind

MAX_LINE_BYTES = 16 * MIB
"""The maximum size of a line, or of a JSON string in a document."""
_HEAD_BYTES = 64 * KIB
_MAX_HEAD_BYTES = 4 * MIB
"""The most that is read to find _EXAMINED_LINES. A resource with the largest `data` has 1.5 MiB."""
_EXAMINED_LINES = 3
_MAX_UNKNOWN_KEYS = 100
MAX_KEY_LENGTH = 64
_MAX_DEPTH = 100
_BOM = b"\xef\xbb\xbf"


class Item(NamedTuple):
    """A JSON value that should be a resource, or a problem.

    In JSON lines `place` is for example `line 3`, counted from 1, and `line 3, index 0` if the line
    has a list. In a document it is for example `index 2`, counted from 0 over the whole file.
    """

    place: str
    resource: object = None
    problem: str = ""


_NESTED = object()
"""Placeholder for a list or an object in a property that should be a string or null."""


@dataclass(slots=True)
class _Object:
    """An object that is being read: a resource, or an envelope without kept properties."""

    properties: dict[str, object] = field(default_factory=dict)
    is_envelope: bool = False
    unknown_keys: int = 0

    def keep(self, key: str, value: object) -> None:
        """Keep a property of a resource. Of unknown properties keep at most 100 shortened keys."""
        if key in PROPERTY_OF:
            self.properties[key] = value
        elif self.unknown_keys < _MAX_UNKNOWN_KEYS:
            self.unknown_keys += 1
            self.properties[key[:MAX_KEY_LENGTH]] = None


def read_items(stream: BinaryIO) -> Iterator[Item]:
    """Return an iterator over the resources and the problems of a stream."""
    head = _head_of(stream)
    if is_utf16(head):
        stream = as_utf8(io.BufferedReader(_Rejoined(head, stream)))
        head = _head_of(stream)
    elif kind := name_of_kind(head):
        return iter([Item("index 0", problem=f"is not valid JSON, but {kind}")])
    head = head.removeprefix(_BOM)
    if not head.strip() and len(head) < _HEAD_BYTES:  # an export of an empty store is empty
        return iter(())
    if _is_lines(head):
        return _read_lines(io.BufferedReader(_Rejoined(head, stream), _HEAD_BYTES))
    return _read_document(_Document(head, stream))


def _head_of(stream: BinaryIO) -> bytes:
    """Return the first bytes of a stream: three lines, or about _MAX_HEAD_BYTES at most."""
    head = bytearray()
    while len(head) < _MAX_HEAD_BYTES and head.count(b"\n") < _EXAMINED_LINES:
        if not (chunk := stream.read(_HEAD_BYTES)):
            break
        head += chunk
    return bytes(head)


def _is_lines(head: bytes) -> bool:
    """Return whether a stream is JSON lines, decided by its first three lines that aren't empty.

    The stream is JSON lines if two of them are whole objects, or if one is and all begin with `{`.
    JSON lines that are mistaken for a document are read up to the first line that is not JSON.
    """
    lines = list(islice(filter(None, map(bytes.strip, io.BytesIO(head))), _EXAMINED_LINES))
    whole = sum(map(_is_whole_object, lines))
    all_begin = all(line.startswith(b"{") for line in lines)
    return len(lines) > 1 and (whole > 1 or (whole == 1 and all_begin))


def _is_whole_object(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return line.startswith(b"{")


def _read_lines(stream: BinaryIO) -> Iterator[Item]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        place = f"line {number}"
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            yield Item(place, problem=f"is longer than {MAX_LINE_BYTES:,} bytes")
        elif text := line.removeprefix(_BOM).strip():  # joined files have several marks
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                yield Item(place, problem=f"is not valid JSON: {error.msg}")
            else:
                for index, resource in enumerate(_resources(value)):
                    alone = resource is value
                    yield Item(place if alone else f"{place}, index {index}", resource)


def _resources(value: object) -> Iterator[object]:
    """Yield the resources of a parsed value, also those in nested lists."""
    pending = deque([value])
    while pending:
        value = pending.popleft()
        if isinstance(value, Mapping) and isinstance(value.get(LIST_KEY), list):
            value = value[LIST_KEY]
        if isinstance(value, list):
            pending.extendleft(reversed(value))
        else:
            yield value


def _read_document(stream: "_Document") -> Iterator[Item]:
    """Yield the resources of one or more JSON values; only one resource is in memory.

    The stack has the open lists (as None) and objects. Values nested in a property of a resource
    are skipped.
    """
    stack: list[_Object | None] = []
    key = ""
    skipped = 0  # the current depth in a value that is skipped; 0 outside
    index = 0
    try:
        # A small buffer, so that a string that is too long is detected before it is in memory.
        events = ijson.basic_parse(
            stream, multiple_values=True, use_float=True, buf_size=_HEAD_BYTES
        )
        for event, value in events:
            stream.since_event = 0
            if skipped:
                skipped += event.startswith("start_") - event.startswith("end_")
                continue
            inside = stack[-1] if stack else None
            if event == "map_key":
                key = value
            elif event in ("end_array", "end_map"):
                stack.pop()
                if inside is not None and not inside.is_envelope:
                    yield Item(f"index {index}", inside.properties)
                    index += 1
            elif inside is not None and not (event == "start_array" and key == LIST_KEY):
                inside.keep(key, _NESTED if event.startswith("start_") else value)
                skipped = int(event.startswith("start_"))
            elif event.startswith("start_"):
                if inside is not None:
                    inside.is_envelope = True
                if len(stack) == _MAX_DEPTH:
                    yield Item(
                        f"index {index}", problem="lies too deep in lists; nothing after it is read"
                    )
                    return
                stack.append(_Object() if event == "start_map" else None)
            else:
                yield Item(f"index {index}", value)
                index += 1
    except _TooLongError:
        problem = f"a text is longer than {MAX_LINE_BYTES:,} bytes; nothing after it is read"
        yield Item(f"index {index}", problem=problem)
    except (ijson.JSONError, UnicodeDecodeError):  # ijson accepts some text that is not UTF-8
        problem = "is not valid JSON; nothing after it is read"
        yield Item(f"index {index}", problem=problem)


class _TooLongError(Exception):
    """A JSON string is longer than MAX_LINE_BYTES."""


class _Rejoined(io.RawIOBase):
    """A stream with the bytes that were read from its beginning put back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        if count := self._head.readinto(buffer):
            return count
        data = self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Document(_Rejoined):
    """A stream that raises _TooLongError after MAX_LINE_BYTES without an event of the parser."""

    since_event = 0
    """Bytes read since the last event of the parser; the reader resets it."""

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        count = super().readinto(buffer)
        self.since_event += count
        if self.since_event > MAX_LINE_BYTES:
            raise _TooLongError
        return count
