"""The schema, as numbered steps that only go forward.

Steps that have been released don't change. Each says which lock it takes on tables that are in
use, for servers go on while it runs: nothing may keep reads or writes waiting for longer than a
moment.

A new database is made at version 2. One of version 1 is rewritten, by rewrite.py.
"""

from typing import NamedTuple

NOTE = "INSERT INTO schema_migrations (version, name, compatible_with) VALUES ($1, $2, $3)"
"""The statement that says that a step has run."""


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
    """True if its statements run one by one outside of a transaction, as CREATE INDEX CONCURRENTLY
    has to. Each must then bear to be run again, after it was broken off too.
    """


REWRITTEN = 1
"""The version whose tables have text for SIDs, and no account in their keys."""
DISTRIBUTED_TABLES = ("interactions", "tombstones", "session_owners")
"""The tables whose keys begin with a Session."""
TABLES = (*DISTRIBUTED_TABLES, "api_keys")

LISTED = "created_us > -1000000000000000000"
"""A condition that every row meets. Each statement on the index of lists has to include it.

That index has a condition so that no other statement can use it. To look up a key in it would read
all of the account's rows in the Session; the planner takes it for as cheap as the primary key where
it expects few rows of an account in a Session.
"""


def tables_of_sessions(suffix: str = "") -> tuple[str, ...]:
    """Return the statements that create DISTRIBUTED_TABLES, with a suffix of their names.

    Wide columns come first, and then narrower ones, so that none is padded to its alignment.
    """
    return (
        f"""
        CREATE TABLE interactions{suffix} (
            session_sid              uuid NOT NULL,
            account_sid              uuid NOT NULL,
            sid                      uuid NOT NULL,
            service_sid              uuid NOT NULL,
            created_us               bigint NOT NULL,
            updated_us               bigint NOT NULL,
            inbound_status_us        bigint,
            outbound_status_us       bigint,
            checksum                 integer NOT NULL,
            type                     smallint NOT NULL,
            inbound_resource_status  smallint,
            outbound_resource_status smallint,
            inbound_participant_sid  uuid,
            outbound_participant_sid uuid,
            inbound_resource_sid     bytea,
            outbound_resource_sid    bytea,
            frame                    bytea NOT NULL,
            PRIMARY KEY (session_sid, account_sid, sid)
        )
        """,
        f"""
        CREATE UNIQUE INDEX interactions{suffix}_by_creation
            ON interactions{suffix} (session_sid, account_sid, created_us, sid) WHERE {LISTED}
        """,
        f"""
        CREATE TABLE tombstones{suffix} (
            session_sid uuid NOT NULL,
            account_sid uuid NOT NULL,
            sid         uuid NOT NULL,
            deleted_us  bigint NOT NULL,
            PRIMARY KEY (session_sid, account_sid, sid)
        )
        """,
        f"""
        CREATE TABLE session_owners{suffix} (
            session_sid uuid NOT NULL,
            service_sid uuid NOT NULL,
            account_sid uuid NOT NULL,
            PRIMARY KEY (session_sid, service_sid, account_sid)
        )
        """,
    )


MIGRATIONS = (
    Migration(
        2,
        "interactions, tombstones, owners of sessions, api keys; an account has its own SIDs",
        # Makes tables: takes no lock on one that is in use.
        (
            *tables_of_sessions(),
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
        compatible_with=2,
    ),
)
LATEST = MIGRATIONS[-1].version
