"""The steps by which versions 1 to 3 of the schema came to be, exactly as they were released.

A store of such a version is rewritten into the present schema; new ones don't take these steps.
"""

from typing import NamedTuple

LATEST_LEGACY = 3


class Migration(NamedTuple):
    """One step: its number, a name for people, and its statements."""

    version: int
    name: str
    statements: tuple[str, ...]


LEGACY_MIGRATIONS = (
    Migration(
        1,
        "interactions and tombstones",
        (
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
            ) STRICT
            """,
            """
            CREATE UNIQUE INDEX interactions_by_creation
                ON interactions (session_sid, created_us, sid)
            """,
            """
            CREATE TABLE tombstones (
                session_sid TEXT NOT NULL,
                sid         TEXT NOT NULL,
                deleted_us  INTEGER NOT NULL,
                PRIMARY KEY (session_sid, sid)
            ) STRICT, WITHOUT ROWID
            """,
        ),
    ),
    Migration(
        2,
        "api keys",
        (
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
        ),
    ),
    Migration(
        3,
        "owners of sessions",
        (
            """
            CREATE TABLE session_owners (
                session_sid TEXT NOT NULL,
                service_sid TEXT NOT NULL,
                account_sid TEXT NOT NULL,
                PRIMARY KEY (session_sid, service_sid, account_sid)
            ) STRICT, WITHOUT ROWID
            """,
            """
            INSERT INTO session_owners
                SELECT DISTINCT session_sid, service_sid, account_sid FROM interactions
            """,
        ),
    ),
)
