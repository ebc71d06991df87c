"""The current schema, and its creation in an empty file.

Interactions are stored in list order, so the rows of a page lie together; see docs/decisions/0030.
"""

import secrets
import sqlite3

APPLICATION_ID = 0x49584E53  # "IXNS": identifies a store of this program
VERSION = 4
NAME = "rows in the order of lists"
PAGE_BYTES = 8_192

STATEMENTS = (
    """
    CREATE TABLE interactions (
        session_sid              BLOB NOT NULL,
        account_sid              BLOB NOT NULL,
        created_us               INTEGER NOT NULL,
        sid                      BLOB NOT NULL,
        service_sid              BLOB NOT NULL,
        updated_us               INTEGER NOT NULL,
        type                     INTEGER NOT NULL,
        inbound_participant_sid  BLOB,
        outbound_participant_sid BLOB,
        inbound_resource_sid     BLOB,
        outbound_resource_sid    BLOB,
        inbound_resource_status  INTEGER,
        outbound_resource_status INTEGER,
        inbound_status_us        INTEGER,
        outbound_status_us       INTEGER,
        checksum                 INTEGER NOT NULL,
        frame                    BLOB NOT NULL,
        PRIMARY KEY (session_sid, account_sid, created_us, sid)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE UNIQUE INDEX interactions_by_sid
        ON interactions (session_sid, account_sid, sid)
    """,
    """
    CREATE TABLE tombstones (
        session_sid BLOB NOT NULL,
        account_sid BLOB NOT NULL,
        sid         BLOB NOT NULL,
        deleted_us  INTEGER NOT NULL,
        PRIMARY KEY (session_sid, account_sid, sid)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE session_owners (
        session_sid BLOB NOT NULL,
        service_sid BLOB NOT NULL,
        account_sid BLOB NOT NULL,
        PRIMARY KEY (session_sid, service_sid, account_sid)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE api_keys (
        sid         TEXT PRIMARY KEY NOT NULL,
        account_sid TEXT,
        role        TEXT NOT NULL,
        secret_hash BLOB NOT NULL,
        created_us  INTEGER NOT NULL,
        revoked_us  INTEGER
    ) STRICT
    """,
    "CREATE INDEX api_keys_by_account ON api_keys (account_sid)",
)


def prepare(db: sqlite3.Connection) -> None:
    """Set the page size and the mark of an empty file, before it gets a write-ahead log.

    The mark is a random user_version that identifies the file (see open_files.py). If it were
    written later, it would be in the log, and in the file only after a checkpoint.
    """
    db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    db.execute("BEGIN IMMEDIATE")  # another process may be creating the same file
    if db.execute("PRAGMA user_version").fetchone() == (0,):
        db.execute(f"PRAGMA user_version = {secrets.randbelow(2**31 - 1) + 1}")
    db.execute("COMMIT")


def create(db: sqlite3.Connection) -> None:
    """Create the schema in an empty file, inside a transaction."""
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(
        "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY,"
        " name TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT"
    )
    for statement in STATEMENTS:
        db.execute(statement)
    db.execute(
        "INSERT INTO schema_migrations VALUES (?, ?, datetime('now'))",
        (VERSION, NAME),
    )
