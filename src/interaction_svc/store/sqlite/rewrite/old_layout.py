"""Reads rows of layouts 1 to 3, which store SIDs as text and have no account in their keys."""

import sqlite3
from typing import Any

from interaction_svc.domain.sids import Sid, canonical_sid
from interaction_svc.store.checksum import checksum_of
from interaction_svc.store.errors import DamagedRowError, StoreDamagedError
from interaction_svc.store.rows import Row, decode, row_of
from interaction_svc.v1 import interaction_pb2 as pb

Position = tuple[str, int, str]
"""A position in the order of (session_sid, created_us, sid)."""
BEGINNING: Position = ("", -(2**63), "")

_COLUMNS = (
    "session_sid", "account_sid", "sid", "service_sid", "created_us", "updated_us", "type",
    "inbound_participant_sid", "outbound_participant_sid", "inbound_resource_sid",
    "outbound_resource_sid", "inbound_resource_status", "outbound_resource_status",
)  # fmt: skip
_KEY_KINDS = (Sid.SESSION, Sid.ACCOUNT, Sid.INTERACTION, Sid.SERVICE)
_ROWS = (
    f"SELECT {', '.join(_COLUMNS)}, frame FROM interactions INDEXED BY interactions_by_creation"
    " WHERE (session_sid, created_us, sid) > (?, ?, ?)"
    " ORDER BY session_sid, created_us, sid LIMIT ?"
)


class OldRow:
    """A row of an old layout, and its conversion to the current one."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self._values = values[:-1]
        self.frame: bytes = values[-1]
        session_sid, _, sid, _, created_us, *_ = values
        self.position: Position = (session_sid, created_us, sid)

    @property
    def key(self) -> tuple[str, str, str]:
        """The row's key in the current layout: session_sid, account_sid and sid.

        Raises StoreDamagedError if a column is not a SID: the row can't be stored then.
        """
        for kind, sid in zip(_KEY_KINDS, self._values, strict=False):
            if not (isinstance(sid, str) and kind.matches(sid)):
                raise StoreDamagedError(
                    f"a row of the Session {self._values[0]!r} has {sid!r} where a SID must match"
                    f" {kind.pattern}: restore it from a backup, or delete the row"
                )
        session_sid, account_sid, sid, *_ = self._values
        return canonical_sid(session_sid), canonical_sid(account_sid), canonical_sid(sid)

    def row(self) -> tuple[Row, bool]:
        """Convert the row to the current layout. Return it, and whether it is intact.

        A row that can't be decoded, or whose columns differ from its frame, gets a wrong checksum,
        which marks it as damaged. Raises StoreDamagedError like `key`.
        """
        key = self.key
        canonical = tuple(
            canonical_sid(value) if isinstance(value, str) else value for value in self._values
        )
        try:
            interaction = decode(self.frame)
            row = row_of(interaction)
            if row[: len(_COLUMNS)] != self._values:
                raise DamagedRowError("its columns are not those of its frame")
        except (DamagedRowError, ValueError):
            wrong = ~checksum_of(self.frame)
            readable = (value if _is_sid(value) else None for value in canonical[7:11])
            columns = (*key, *canonical[3:7], *readable, *canonical[11:])
            return Row._make((*columns, None, None, wrong, self.frame)), False
        if canonical != self._values:
            return row_of(_canonical(interaction)), True
        # The bytes stay unchanged, because another version of protobuf may have encoded them.
        return row._replace(frame=self.frame, checksum=checksum_of(self.frame)), True


def _is_sid(value: object) -> bool:
    return isinstance(value, str) and Sid.RESOURCE.matches(value) is not None


def read(db: sqlite3.Connection, after: Position, limit: int) -> list[OldRow]:
    """Return up to `limit` rows after a position, in order."""
    return [OldRow(values) for values in db.execute(_ROWS, (*after, limit))]


def _canonical(interaction: pb.Interaction) -> pb.Interaction:
    """Convert the SIDs of an Interaction to canonical spelling, in place."""
    for message, names in (
        (interaction, ("sid", "account_sid", "service_sid", "session_sid")),
        (interaction.inbound, ("participant_sid", "resource_sid")),
        (interaction.outbound, ("participant_sid", "resource_sid")),
    ):
        for name in names:
            if sid := getattr(message, name):
                setattr(message, name, canonical_sid(sid))
    return interaction
