"""A key as it is stored: whom it lets in, and a hash to know its secret by."""

from typing import NamedTuple


class ApiKey(NamedTuple):
    """One API key. Times are in microseconds since 1970; the secret itself is stored nowhere."""

    sid: str
    account_sid: str | None
    """The account that it is bound to; None: all accounts."""
    role: str
    """Its roles, sorted, with a comma between several: `ingest,read`."""
    secret_hash: bytes
    created_us: int
    revoked_us: int | None
