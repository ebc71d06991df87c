"""Conversion of rows between Row and the columns of the database.

A SID is stored in 16 bytes, as the `uuid` of its 32 hex digits. The column implies the two letters.
The driver's built-in codec accepts the digits as text, and returns an object with the attribute
`hex`. So COPY, arrays and poolers work without a custom codec. A resource has one of several
prefixes, so its column is `bytea`: the two letters, then the 16 bytes. API keys store SIDs as text.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from interaction_svc.store.rows import Row
from interaction_svc.store.tables import KEYS, Table, TableKey, TableRow

_PREFIXES = {
    "session_sid": "KC",
    "account_sid": "AC",
    "sid": "KI",
    "service_sid": "KS",
    "inbound_participant_sid": "KP",
    "outbound_participant_sid": "KP",
}
_RESOURCES = ("inbound_resource_sid", "outbound_resource_sid")
_TYPES = {
    **dict.fromkeys(_PREFIXES, "uuid"),
    **dict.fromkeys(_RESOURCES, "bytea"),
    "created_us": "bigint",
    "updated_us": "bigint",
    "deleted_us": "bigint",
    "revoked_us": "bigint",
    "inbound_status_us": "bigint",
    "outbound_status_us": "bigint",
    "type": "smallint",
    "inbound_resource_status": "smallint",
    "outbound_resource_status": "smallint",
    "checksum": "integer",
    "frame": "bytea",
    "secret_hash": "bytea",
}


def digits(sid: str) -> str:
    """Return the value of a SID's column: its 32 hex digits."""
    return sid[2:]


def digits_or_none(sid: str | None) -> str | None:
    """Return the 32 hex digits of a SID; None for None."""
    return None if sid is None else sid[2:]


def session(value: Any) -> str:
    """Return the SID of a Session from its column."""
    return f"KC{value.hex}"


def account(value: Any) -> str:
    """Return the SID of an account from its column."""
    return f"AC{value.hex}"


def interaction(value: Any) -> str:
    """Return the SID of an Interaction from its column."""
    return f"KI{value.hex}"


def service(value: Any) -> str:
    """Return the SID of a Service from its column."""
    return f"KS{value.hex}"


def participant(value: Any) -> str | None:
    """Return the SID of a participant from its column; None for null."""
    return None if value is None else f"KP{value.hex}"


def packed_resource(sid: str | None) -> bytes | None:
    """Return the value of a resource's column: two letters and 16 bytes."""
    return None if sid is None else sid[:2].encode() + bytes.fromhex(sid[2:])


def resource(value: bytes | None) -> str | None:
    """Return the SID of a resource from its column; None for null."""
    return None if value is None else value[:2].decode() + value[2:].hex()


def packed_row(row: Row) -> tuple[object, ...]:
    """Return the values of a row's columns, in the order of Row."""
    return (
        row[0][2:],
        row[1][2:],
        row[2][2:],
        row[3][2:],
        *row[4:7],
        digits_or_none(row[7]),
        digits_or_none(row[8]),
        packed_resource(row[9]),
        packed_resource(row[10]),
        *row[11:],
    )


def row_from(values: Sequence[Any]) -> Row:
    """Return the row with these column values."""
    return Row._make(
        (
            session(values[0]),
            account(values[1]),
            interaction(values[2]),
            service(values[3]),
            *values[4:7],
            participant(values[7]),
            participant(values[8]),
            resource(values[9]),
            resource(values[10]),
            *values[11:],
        )
    )


def packed_record(table: Table, record: TableRow) -> tuple[object, ...]:
    """Return the column values of a table's record."""
    if isinstance(record, Row):
        return packed_row(record)
    return tuple(
        value[2:] if _is_packed(table, name) else value  # type: ignore[index]
        for name, value in zip(table.columns, record, strict=True)
    )


def packed_key(table: Table, key: TableKey) -> tuple[str, ...]:
    """Return the column values of a table's primary key."""
    return key if table is KEYS else tuple(map(digits, key))


def reader_of(table: Table) -> Callable[[Sequence[Any]], TableRow]:
    """Return the function that builds a table's record from its column values."""
    if table.record is Row:
        return row_from
    prefixes = [_PREFIXES[name] if _is_packed(table, name) else None for name in table.columns]

    def read(values: Sequence[Any]) -> TableRow:
        return table.record(
            *(
                value if prefix is None else prefix + value.hex
                for prefix, value in zip(prefixes, values, strict=True)
            )
        )

    return read


def _is_packed(table: Table, column: str) -> bool:
    return table is not KEYS and column in _PREFIXES


def unnest_clause(columns: Iterable[str], *, keys: bool = False) -> str:
    """Return an `unnest` of one array parameter for each column: $1, $2 and so on.

    `keys` is true for the columns of API keys.
    """
    arrays = (
        f"${n}::{'text' if keys and name in _PREFIXES else _TYPES.get(name, 'text')}[]"
        for n, name in enumerate(columns, 1)
    )
    return f"unnest({', '.join(arrays)})"
