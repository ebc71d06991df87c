"""Export of Interactions as JSON lines. Importing the lines creates equal Interactions."""

from collections.abc import AsyncIterator

import orjson

from interaction_svc.codec.twilio_json import to_json
from interaction_svc.domain.units import MIB
from interaction_svc.store import ScanPosition, Store, decode

_PAGE_ROWS = 1000
_PAGE_BYTES = 4 * MIB


async def export_lines(
    store: Store,
    base_url: str,
    *,
    service_sid: str | None = None,
    session_sid: str | None = None,
    account_sid: str | None = None,
) -> AsyncIterator[bytes]:
    """Yield a line for each Interaction, ordered by Session, account, creation and SID.

    Times have microseconds; the REST API has whole seconds. The store is read in pages of at most
    _PAGE_ROWS, so that a slow reader does not block other callers. Interactions that are written
    during the export may be missing. Raises StoreError.
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
