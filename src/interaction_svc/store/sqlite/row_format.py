"""Conversion between rows and their stored form: SIDs as 16 bytes.

All SIDs of a column begin with the same two letters, which are not stored. SIDs of resources begin
with different letters, so they are stored with their letters in 18 bytes. API keys are stored
unchanged. The Store interface has SIDs as text in canonical spelling.
"""

from typing import Any, NamedTuple

from interaction_svc.store.rows import Row
from interaction_svc.store.tables import INTERACTIONS, KEYS, Table, TableKey, TableRow

Packed = tuple[Any, ...]
"""A row of any table, or its key, in the stored form."""


class Columns(NamedTuple):
    """The columns of the table `interactions`, in their stored order."""

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


def pack(sid: str) -> bytes:
    """Return a SID without its letters. The empty SID becomes b"", which sorts before all."""
    return bytes.fromhex(sid[2:])


def unpack(column: str, packed: bytes) -> str:
    """Return the SID that a column stores as these bytes."""
    return _PREFIXES[column] + packed.hex()


def pack_resource(sid: str) -> bytes:
    """Return a resource's SID with its letters."""
    return sid[:2].encode() + bytes.fromhex(sid[2:])


def _unpack_resource(packed: bytes) -> str:
    return packed[:2].decode() + packed[2:].hex()


def pack_row(row: Row) -> Packed:
    """Return the Columns of a row, as a plain tuple."""
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
        pack(session_sid),
        pack(account_sid),
        created_us,
        pack(sid),
        pack(service_sid),
        updated_us,
        type_,
        inbound_sid and pack(inbound_sid),
        outbound_sid and pack(outbound_sid),
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
    """Return the columns of a table in the order of its packed rows."""
    return Columns._fields if table is INTERACTIONS else table.columns


def pack_key(table: Table, key: TableKey) -> Packed:
    """Return a packed key of any table, in the order of the table's key_columns."""
    return key if table is KEYS else tuple(map(pack, key))


def pack_record(table: Table, record: TableRow) -> Packed:
    """Return the stored form of a row of any table."""
    if isinstance(record, Row):
        return pack_row(record)
    return (*pack_key(table, table.key_of(record)), *record[table.key_length :])


def unpack_record(table: Table, packed: Packed) -> TableRow:
    """Return the row of any table with this stored form."""
    if table is INTERACTIONS:
        return unpack_row(packed)
    if table is KEYS:
        return table.record._make(packed)
    key = map(unpack, table.key_columns, packed)
    return table.record._make((*key, *packed[table.key_length :]))
