"""Creates SQLite stores of layouts 1 to 3, which have SIDs as text."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from testing.build import NOON_US

from interaction_svc.domain import timestamps
from interaction_svc.v1 import interaction_pb2 as pb
from interaction_svc.v1.interaction_service_pb2 import GetInteractionResponse

APPLICATION_ID = 0x49584E53
STEPS = (
    """
    CREATE TABLE interactions (
        session_sid              TEXT NOT NULL,
        sid                      TEXT NOT NULL,
        account_sid              TEXT NOT NULL,
        service_sid              TEXT NOT NULL,
        created_us               INTEGER NOT NULL,
        updated_us               INTEGER NOT NULL,
        type                     INTEGER NOT NULL,
        inbound_participant_sid  TEXT,
        outbound_participant_sid TEXT,
        inbound_resource_sid     TEXT,
        outbound_resource_sid    TEXT,
        inbound_resource_status  INTEGER,
        outbound_resource_status INTEGER,
        frame                    BLOB NOT NULL,
        PRIMARY KEY (session_sid, sid)
    ) STRICT;
    CREATE UNIQUE INDEX interactions_by_creation
        ON interactions (session_sid, created_us, sid);
    CREATE TABLE tombstones (
        session_sid TEXT NOT NULL,
        sid         TEXT NOT NULL,
        deleted_us  INTEGER NOT NULL,
        PRIMARY KEY (session_sid, sid)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE api_keys (
        sid         TEXT PRIMARY KEY NOT NULL,
        account_sid TEXT,
        role        TEXT NOT NULL,
        secret_hash BLOB NOT NULL,
        created_us  INTEGER NOT NULL,
        revoked_us  INTEGER
    ) STRICT;
    CREATE INDEX api_keys_by_account ON api_keys (account_sid);
    """,
    """
    CREATE TABLE session_owners (
        session_sid TEXT NOT NULL,
        service_sid TEXT NOT NULL,
        account_sid TEXT NOT NULL,
        PRIMARY KEY (session_sid, service_sid, account_sid)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO session_owners
        SELECT DISTINCT session_sid, service_sid, account_sid FROM interactions;
    """,
)
Columns = tuple[object, ...]


def make_old_store(
    path: Path, interactions: Sequence[pb.Interaction] = (), *, version: int = 3
) -> None:
    """Create a store of this layout that contains these Interactions."""
    with closing(opened(path)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(
            "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY,"
            " name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT"
        )
        for number, statements in enumerate(STEPS[:version], 1):
            db.executescript(statements)
            db.execute(
                "INSERT INTO schema_migrations VALUES (?, 'a step', '2026-01-01 00:00:00')",
                (number,),
            )
        add(db, interactions, owners=version >= 3)


def opened(path: Path) -> sqlite3.Connection:
    """Open a store like a server of the previous version."""
    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    db.execute("PRAGMA journal_mode = WAL")
    return db


def add(db: sqlite3.Connection, interactions: Iterable[pb.Interaction], *, owners: bool) -> None:
    rows = [columns_of(interaction) for interaction in interactions]
    db.execute("BEGIN")
    db.executemany(f"INSERT OR REPLACE INTO interactions VALUES ({', '.join('?' * 14)})", rows)
    if owners:
        db.executemany(
            "INSERT OR IGNORE INTO session_owners VALUES (?, ?, ?)",
            [(row[0], row[3], row[2]) for row in rows],
        )
    db.execute("COMMIT")


def delete(db: sqlite3.Connection, interaction: pb.Interaction) -> None:
    key = interaction.session_sid, interaction.sid
    db.execute("BEGIN")
    db.execute("DELETE FROM interactions WHERE session_sid = ? AND sid = ?", key)
    db.execute("INSERT INTO tombstones VALUES (?, ?, ?)", (*key, NOON_US))
    db.execute("COMMIT")


def columns_of(interaction: pb.Interaction) -> Columns:
    inbound, outbound = interaction.inbound, interaction.outbound
    return (
        interaction.session_sid,
        interaction.sid,
        interaction.account_sid,
        interaction.service_sid,
        timestamps.to_us(interaction.create_time),
        timestamps.to_us(interaction.update_time),
        interaction.type,
        inbound.participant_sid or None,
        outbound.participant_sid or None,
        inbound.resource_sid or None,
        outbound.resource_sid or None,
        inbound.resource_status or None,
        outbound.resource_status or None,
        GetInteractionResponse(interaction=interaction).SerializeToString(),
    )
