"""A reader of protobuf's wire format that finds the field because of which parsing failed.

protobuf itself reports only that parsing failed. The reader runs only after a failure, and on
messages with unknown fields.
"""

from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MAX_FIELDS = 100
"""The maximum number of fields to read, which bounds the time. Messages of the API have fewer."""

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Fault(NamedTuple):
    """A field, by its path from the message, and its problem."""

    field: str
    problem: str


class _Undecodable(Exception):
    """The next bytes are not a field."""


class _TooManyFields(Exception):
    """There are more than MAX_FIELDS."""


def find_fault(descriptor: Any, data: bytes) -> Fault | None:
    """Return the first field that is at fault; None if no single field is."""
    try:
        return _Search().fault(descriptor, data, "")
    except (_Undecodable, _TooManyFields):
        return None


class _Search:
    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def fault(self, descriptor: Descriptor, data: bytes, path: str) -> Fault | None:
        at = 0
        while at < len(data):
            self._left -= 1
            if self._left < 0:
                raise _TooManyFields
            tag, at = _varint(data, at)
            field = descriptor.fields_by_number.get(tag >> 3)
            name = path + field.name if field is not None else ""
            if field is not None and (wanted := _wire_type(field)) != tag & 7:
                return Fault(name, f"has wire type {tag & 7}; it must have {wanted}")
            begin, end = _extent(data, at, tag & 7)
            if field is not None:
                if end > len(data):
                    return Fault(name, "is cut off: it ends after the message that it is in")
                if found := self._fault_within(field, data[begin:end], name):
                    return found
            if end > len(data):
                raise _Undecodable
            at = end
        return None

    def _fault_within(self, field: FieldDescriptor, value: bytes, name: str) -> Fault | None:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            assert field.message_type is not None  # noqa: S101 a message field has one
            try:
                return self.fault(field.message_type, value, f"{name}.")
            except _Undecodable:
                return Fault(name, f"is not a valid {field.message_type.full_name}")
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                value.decode()
            except UnicodeDecodeError:
                return Fault(name, "must be UTF-8")
        return None


def _wire_type(field: FieldDescriptor) -> int:
    kind = FieldDescriptor
    if field.type in (kind.TYPE_MESSAGE, kind.TYPE_STRING, kind.TYPE_BYTES):
        return _LEN
    if field.type in (kind.TYPE_FIXED64, kind.TYPE_SFIXED64, kind.TYPE_DOUBLE):
        return _I64
    if field.type in (kind.TYPE_FIXED32, kind.TYPE_SFIXED32, kind.TYPE_FLOAT):
        return _I32
    return _VARINT


def _extent(data: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Return the bounds of a field's value; its end may exceed the end of the data."""
    if wire_type == _VARINT:
        return at, _varint(data, at)[1]
    if wire_type == _LEN:
        size, begin = _varint(data, at)
        return begin, begin + size
    if wire_type == _I64:
        return at, at + 8
    if wire_type == _I32:
        return at, at + 4
    raise _Undecodable


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at this position, and the position after it."""
    value = 0
    for place, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise _Undecodable
