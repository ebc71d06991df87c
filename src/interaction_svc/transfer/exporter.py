"""Exporting: a store as JSON lines that an import reads back to an equal store."""

from collections.abc import AsyncIterator

import orjson

from interaction_svc.codec.twilio_json import to_json
from interaction_svc.store import ScanPosition, Store, decode

_PAGE_ROWS = 1000
_PAGE_BYTES = 4 * 1024 * 1024


async def export_lines(
    store: Store,
    base_url: str,
    *,
    service_sid: str | None = None,
    session_sid: str | None = None,
    account_sid: str | None = None,
) -> AsyncIterator[bytes]:
    """Yield the lines of one Interaction each, ordered by Session, account, creation and SID.

    Times keep their microseconds, which the REST API cuts off. The store is read page by page, so
    that a slow reader holds up nobody; what is written meanwhile may or may not be in it.
    """
    position: ScanPosition | None = None
    while True:
        frames, position = await store.scan(
            after=position,
            limit=_PAGE_ROWS,
            max_bytes=_PAGE_BYTES,
            service_sid=service_sid,
            session_sid=session_sid,
            account_sid=account_sid,
        )
        for frame in frames:
            yield orjson.dumps(to_json(decode(frame), base_url, fraction=True)) + b"\n"
        if position is None:
            return
