"""API keys as they are stored."""

from typing import NamedTuple


class ApiKey(NamedTuple):
    """An API key. Times are in microseconds since 1970. Only a hash of the secret is stored."""

    sid: str
    account_sid: str | None
    """SID of the account that it is limited to; None: all accounts."""
    role: str
    """Its roles, sorted and separated by commas: `ingest,read`."""
    secret_hash: bytes
    created_us: int
    revoked_us: int | None
