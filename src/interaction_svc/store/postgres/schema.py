"""The schema, as numbered migration steps that can't be undone.

Released steps don't change. Servers keep running during a step, so each step names the locks that
it takes on existing tables. No step may block reads or writes for more than a moment.

A new database is created at version 2. A database of version 1 is rewritten by the rewrite package.
"""

from typing import NamedTuple

NOTE = "INSERT INTO schema_migrations (version, name, compatible_with) VALUES ($1, $2, $3)"
"""The statement that records that a step has run."""


class Migration(NamedTuple):
    """One migration step."""

    version: int
    name: str
    """A description for operators."""
    statements: tuple[str, ...]
    compatible_with: int
    """The oldest version whose servers can keep running after the step.

    During a rolling upgrade servers of the previous version still run. A step that only adds is
    compatible with that version. A step that removes something is compatible only with its own
    version.
    """
    online: bool = False
    """True if the statements run one by one outside a transaction, like CREATE INDEX CONCURRENTLY.

    Each statement must then be repeatable, even after an interruption.
    """


REWRITTEN = 1
"""The version whose tables store SIDs as text, and whose keys have no account."""
DISTRIBUTED_TABLES = ("interactions", "tombstones", "session_owners")
"""The tables whose keys begin with a Session."""
TABLES = (*DISTRIBUTED_TABLES, "api_keys")

LISTED = "created_us > -1000000000000000000"
"""The condition of the partial index for lists. Every row meets it.

A statement that uses the index has to include the condition, and a lookup by key leaves it out.
Otherwise the planner could use the index for such a lookup if it expects few rows of an account in
a Session. The lookup would then read all rows of the account in the Session.
"""


def tables_of_sessions(suffix: str = "") -> tuple[str, ...]:
    """Return the statements that create DISTRIBUTED_TABLES under names with this suffix.

    Columns are ordered from wide to narrow, so that alignment adds no padding.
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
        # Only creates tables, and takes no lock on existing ones.
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
