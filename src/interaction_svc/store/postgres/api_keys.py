"""The statements on API keys."""

from interaction_svc.store.api_keys import ApiKey
from interaction_svc.store.postgres.connection import Connection

_COLUMNS = ", ".join(ApiKey._fields)
_SELECT = f"SELECT {_COLUMNS} FROM api_keys"
_OLDEST_FIRST = "ORDER BY created_us, added"
_ADD = f"INSERT INTO api_keys ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6)"
_REVOKE = (
    f"UPDATE api_keys SET revoked_us = coalesce(revoked_us, $2) WHERE sid = $1 RETURNING {_COLUMNS}"
)


async def add(db: Connection, key: ApiKey) -> None:
    """See Store.add_key."""
    await db.execute(_ADD, *key)


async def revoke(db: Connection, sid: str, now_us: int) -> ApiKey | None:
    """See Store.revoke_key."""
    found = await db.fetch(_REVOKE, sid, now_us)
    return ApiKey._make(found[0]) if found else None


async def of_user(db: Connection, user: str) -> list[ApiKey]:
    """See Store.keys_of."""
    found = await db.fetch(f"{_SELECT} WHERE sid = $1 OR account_sid = $1 {_OLDEST_FIRST}", user)
    return [ApiKey._make(row) for row in found]


async def every(db: Connection) -> list[ApiKey]:
    """See Store.keys."""
    return [ApiKey._make(row) for row in await db.fetch(f"{_SELECT} {_OLDEST_FIRST}")]


async def any_ever(db: Connection) -> bool:
    """See Store.has_keys."""
    return bool(await db.fetch("SELECT 1 FROM api_keys LIMIT 1"))
