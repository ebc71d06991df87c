"""The schema, as numbered steps that only go forward.

Steps that have been released don't change. Each says which lock it takes on tables that are in
use, for servers go on while it runs: nothing may keep reads or writes waiting for longer than a
moment.
"""

from typing import NamedTuple


class Migration(NamedTuple):
    """One step."""

    version: int
    name: str
    """For people."""
    statements: tuple[str, ...]
    compatible_with: int
    """The oldest version whose servers may go on once it has run: during a rolling upgrade those of
    the version before are still there. A step that adds has theirs, one that takes away its own.
    """
    online: bool = False
    """Whether its statements run one by one outside of a transaction, as CREATE INDEX CONCURRENTLY
    has to. Each must then bear to be run again, after it was broken off too.
    """


MIGRATIONS = (
    Migration(
        1,
        "interactions, tombstones, owners of sessions, api keys",
        # Makes tables: takes no lock on one that is in use.
        (
            """
            CREATE TABLE interactions (
                session_sid              text COLLATE "C" NOT NULL,
                sid                      text COLLATE "C" NOT NULL,
                account_sid              text COLLATE "C" NOT NULL,
                service_sid              text COLLATE "C" NOT NULL,
                created_us               bigint NOT NULL,
                updated_us               bigint NOT NULL,
                type                     smallint NOT NULL,
                inbound_participant_sid  text COLLATE "C",
                outbound_participant_sid text COLLATE "C",
                inbound_resource_sid     text COLLATE "C",
                outbound_resource_sid    text COLLATE "C",
                inbound_resource_status  smallint,
                outbound_resource_status smallint,
                frame                    bytea NOT NULL,
                PRIMARY KEY (session_sid, sid)
            )
            """,
            """
            CREATE UNIQUE INDEX interactions_by_creation
                ON interactions (session_sid, created_us, sid)
            """,
            """
            CREATE TABLE tombstones (
                session_sid text COLLATE "C" NOT NULL,
                sid         text COLLATE "C" NOT NULL,
                deleted_us  bigint NOT NULL,
                PRIMARY KEY (session_sid, sid)
            )
            """,
            """
            CREATE TABLE session_owners (
                session_sid text COLLATE "C" NOT NULL,
                service_sid text COLLATE "C" NOT NULL,
                account_sid text COLLATE "C" NOT NULL,
                PRIMARY KEY (session_sid, service_sid, account_sid)
            )
            """,
            """
            CREATE TABLE api_keys (
                sid         text COLLATE "C" PRIMARY KEY,
                account_sid text COLLATE "C",
                role        text NOT NULL,
                secret_hash bytea NOT NULL,
                created_us  bigint NOT NULL,
                revoked_us  bigint,
                added       bigint GENERATED ALWAYS AS IDENTITY
            )
            """,
            "CREATE INDEX api_keys_by_account ON api_keys (account_sid)",
        ),
        compatible_with=1,
    ),
)
LATEST = MIGRATIONS[-1].version
TABLES = ("interactions", "tombstones", "session_owners", "api_keys")
