"""How several rows go into one statement: an array for each of their columns."""

from collections.abc import Iterable

_OTHER_TYPES = {
    "created_us": "bigint",
    "updated_us": "bigint",
    "deleted_us": "bigint",
    "revoked_us": "bigint",
    "type": "smallint",
    "inbound_resource_status": "smallint",
    "outbound_resource_status": "smallint",
    "frame": "bytea",
    "secret_hash": "bytea",
}


def unnested(columns: Iterable[str]) -> str:
    """Give the rows that these columns, the values $1, $2 and so on, are of."""
    arrays = (f"${n}::{_OTHER_TYPES.get(name, 'text')}[]" for n, name in enumerate(columns, 1))
    return f"unnest({', '.join(arrays)})"
