"""How records are stored: SIDs as 16 bytes, without the two letters that a column's SIDs share.

The Store interface has SIDs as text, in their canonical spelling. The letters of a resource's SID
differ, so that they stay: 18 bytes. API keys are stored as they are.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from interaction_svc.store.rows import Row
from interaction_svc.store.tables import INTERACTIONS, KEYS, Table, TableKey, TableRow

Packed = tuple[Any, ...]
"""A record, or a part of one, as SQLite has it."""


class Columns(NamedTuple):
    """The columns of the table of Interactions, in the order in which they are stored."""

    session_sid: bytes
    account_sid: bytes
    created_us: int
    sid: bytes
    service_sid: bytes
    updated_us: int
    type: int
    inbound_participant_sid: bytes | None
    outbound_participant_sid: bytes | None
    inbound_resource_sid: bytes | None
    outbound_resource_sid: bytes | None
    inbound_resource_status: int | None
    outbound_resource_status: int | None
    inbound_status_us: int | None
    outbound_status_us: int | None
    checksum: int
    frame: bytes


COLUMNS = ", ".join(Columns._fields)
_PREFIXES = {
    "session_sid": "KC",
    "account_sid": "AC",
    "service_sid": "KS",
    "sid": "KI",
    "inbound_participant_sid": "KP",
    "outbound_participant_sid": "KP",
}
_from_hex = bytes.fromhex


def pack(sid: str) -> bytes:
    """Return a SID without its letters; nothing of an empty one, which sorts before all."""
    return _from_hex(sid[2:])


def unpack(column: str, packed: bytes) -> str:
    """Return the SID that is stored like this in a column."""
    return _PREFIXES[column] + packed.hex()


def pack_resource(sid: str) -> bytes:
    """Return a resource's SID with its letters."""
    return sid[:2].encode() + _from_hex(sid[2:])


def _unpack_resource(packed: bytes) -> str:
    return packed[:2].decode() + packed[2:].hex()


# Eight SIDs are packed of every row that is written; those of parents come again and again.
_pack_parent = lru_cache(8192)(pack)


def pack_row(row: Row) -> Packed:
    """Return a row's Columns, as a plain tuple."""
    (
        session_sid,
        account_sid,
        sid,
        service_sid,
        created_us,
        updated_us,
        type_,
        inbound_sid,
        outbound_sid,
        inbound_resource_sid,
        outbound_resource_sid,
        *others,
    ) = row
    return (
        _pack_parent(session_sid),
        _pack_parent(account_sid),
        created_us,
        _from_hex(sid[2:]),
        _pack_parent(service_sid),
        updated_us,
        type_,
        inbound_sid and _from_hex(inbound_sid[2:]),
        outbound_sid and _from_hex(outbound_sid[2:]),
        inbound_resource_sid and pack_resource(inbound_resource_sid),
        outbound_resource_sid and pack_resource(outbound_resource_sid),
        *others,
    )


def unpack_row(packed: Packed) -> Row:
    """Return the row that has these Columns."""
    found = Columns._make(packed)
    inbound_sid, outbound_sid = found.inbound_participant_sid, found.outbound_participant_sid
    inbound_resource, outbound_resource = found.inbound_resource_sid, found.outbound_resource_sid
    return Row(
        unpack("session_sid", found.session_sid),
        unpack("account_sid", found.account_sid),
        unpack("sid", found.sid),
        unpack("service_sid", found.service_sid),
        found.created_us,
        found.updated_us,
        found.type,
        None if inbound_sid is None else unpack("inbound_participant_sid", inbound_sid),
        None if outbound_sid is None else unpack("outbound_participant_sid", outbound_sid),
        None if inbound_resource is None else _unpack_resource(inbound_resource),
        None if outbound_resource is None else _unpack_resource(outbound_resource),
        *packed[11:],
    )


def columns_of(table: Table) -> tuple[str, ...]:
    """Return a table's columns in the order of its packed records."""
    return Columns._fields if table is INTERACTIONS else table.columns


def pack_key(table: Table, key: TableKey) -> Packed:
    """Return the key of a record of any table, in the order of the table's key_columns."""
    return key if table is KEYS else tuple(map(pack, key))


def pack_record(table: Table, record: TableRow) -> Packed:
    """Return a record of any table."""
    if isinstance(record, Row):
        return pack_row(record)
    return (*pack_key(table, table.key_of(record)), *record[table.key_length :])


def unpack_record(table: Table, packed: Packed) -> TableRow:
    """Return the record of any table that is stored like this."""
    if table is INTERACTIONS:
        return unpack_row(packed)
    if table is KEYS:
        return table.record._make(packed)
    key = map(unpack, table.key_columns, packed)
    return table.record._make((*key, *packed[table.key_length :]))
