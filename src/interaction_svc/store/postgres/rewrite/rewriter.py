"""The rewrite from version 1 to version 2, while servers of version 1 keep running.

New tables are filled beside the old ones. A queue lists the work. It begins with every Session, and
triggers add each key that a server changes. Each step takes some entries from the queue, and copies
them in one short transaction under the migration lock. So the rewrite can be interrupted at any
time and continued later, and several processes can run it.

A step copies the current state of a key in the old tables. A later change adds the key to the queue
again. When the queue is short, one transaction locks the old tables, copies the rest, and swaps the
names.

Distributed tables can't have triggers. In that case the old tables are renamed before the first
step, so no server can read or write until the new tables have replaced them.
"""

from functools import partial
from typing import NamedTuple

import structlog

from interaction_svc.store.errors import StoreUnavailableError
from interaction_svc.store.interface import MigrationProgress
from interaction_svc.store.postgres.citus import distribution
from interaction_svc.store.postgres.connection import Connection
from interaction_svc.store.postgres.pool import Pool
from interaction_svc.store.postgres.rewrite.carry_over import NEW, OLD, Entry, Names, carry_over
from interaction_svc.store.postgres.schema import (
    DISTRIBUTED_TABLES,
    MIGRATIONS,
    NOTE,
    REWRITTEN,
    tables_of_sessions,
)
from interaction_svc.store.postgres.schema_lock import under_lock

log = structlog.get_logger()

SIZE_RATIO = 0.8
"""The size of a row with its indexes in version 2, relative to version 1, measured and rounded up
(docs/postgresql.md).
"""
_SHORT = 200
"""The old tables are locked when the queue has fewer entries than this."""
_FEWEST, _MOST = 4, 512
"""The minimum and maximum number of entries that a step takes from the queue."""
_FEW_ROWS, _MANY_ROWS = 1_000, 4_000
"""After a step with fewer rows the number of entries is doubled; after more rows it is halved."""

_TABLES = (
    # A null `sid` means the whole Session. `after_tombstone` and `after_row` say how far a large
    # Session has been copied. `is_listed` marks a whole Session. Its copy may take long, so all
    # such entries are copied before the old tables are locked.
    """
    CREATE TABLE rewrite_queue (
        n               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        session_sid     text COLLATE "C" NOT NULL,
        sid             text COLLATE "C",
        is_listed       boolean NOT NULL DEFAULT false,
        after_tombstone text COLLATE "C" DEFAULT '',
        after_row       text COLLATE "C" DEFAULT ''
    )
    """,
    # The keys of version 1 whose spelling differs from that in version 2.
    """
    CREATE TABLE rewrite_spellings (
        session_sid     text COLLATE "C" NOT NULL,
        sid             text COLLATE "C" NOT NULL,
        spelled_session text COLLATE "C" NOT NULL,
        spelled_sid     text COLLATE "C" NOT NULL,
        PRIMARY KEY (session_sid, sid, spelled_session, spelled_sid)
    )
    """,
    """
    CREATE TABLE rewrite_state (
        is_offline boolean NOT NULL,
        is_listed  boolean NOT NULL DEFAULT false,
        rows_done  bigint NOT NULL DEFAULT 0,
        rows_total bigint NOT NULL
    )
    """,
)
# SECURITY DEFINER: the function runs with the permissions of the migrating user, because the
# permissions of servers don't suffice.
_FUNCTION = """
CREATE FUNCTION rewrite_note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp AS $$
DECLARE
    changed record;
BEGIN
    IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
    IF TG_TABLE_NAME = 'session_owners' THEN
        INSERT INTO rewrite_queue (session_sid) VALUES (changed.session_sid);
    ELSE
        INSERT INTO rewrite_queue (session_sid, sid) VALUES (changed.session_sid, changed.sid);
    END IF;
    RETURN NULL;
END $$
"""
# CREATE TRIGGER waits for running transactions that write to the table. New writes briefly wait for
# CREATE TRIGGER.
_TRIGGER = (
    "CREATE TRIGGER rewrite_note AFTER INSERT OR UPDATE OR DELETE ON {table}"
    " FOR EACH ROW EXECUTE FUNCTION rewrite_note()"
)
_ESTIMATED = (
    "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'interactions'::regclass"
)
_LIST = (
    "INSERT INTO rewrite_queue (session_sid, is_listed) SELECT session_sid, true FROM ("
    + " UNION ".join(f"SELECT DISTINCT session_sid FROM {{{name}}}" for name in DISTRIBUTED_TABLES)
    + ") AS every ORDER BY session_sid"
)
_TAKE = (
    "DELETE FROM rewrite_queue WHERE n IN (SELECT n FROM rewrite_queue ORDER BY n LIMIT $1)"
    " RETURNING session_sid, sid, after_tombstone, after_row"
)
_PUT_BACK = (
    "INSERT INTO rewrite_queue (session_sid, sid, is_listed, after_tombstone, after_row)"
    " VALUES ($1, $2, true, $3, $4)"
)
_LEFT = (
    "SELECT count(*), coalesce(bool_or(is_listed), false)"
    " FROM (SELECT is_listed FROM rewrite_queue ORDER BY n LIMIT $1) AS next"
)
_STATE = "SELECT is_offline, is_listed, rows_done, rows_total FROM rewrite_state"
_INDEXES = {
    "interactions": ("interactions{}_pkey", "interactions{}_by_creation"),
    "tombstones": ("tombstones{}_pkey",),
    "session_owners": ("session_owners{}_pkey",),
}
_REPLACED = "the table of version 1, which version 2 of interaction-svc has replaced"
_LEFT_OVER = (
    "SELECT relname FROM unnest($1::text[]) AS name"
    " JOIN pg_class ON pg_class.oid = to_regclass(name)"
    " WHERE obj_description(pg_class.oid, 'pg_class') = $2 AND pg_has_role(relowner, 'USAGE')"
)
# Copies the owner, the storage parameters and the privileges of the old table to the new one.
_LIKE_OLD = """
SELECT format('ALTER TABLE {new} OWNER TO %s', relowner::regrole)
FROM pg_class WHERE oid = '{old}'::regclass AND relowner <> current_user::regrole
UNION ALL
SELECT format('ALTER TABLE {new} SET (%s)', array_to_string(reloptions, ', '))
FROM pg_class WHERE oid = '{old}'::regclass AND reloptions IS NOT NULL
UNION ALL
SELECT format('GRANT %s ON {new} TO %s%s', privilege_type,
              CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
              CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class, aclexplode(relacl) WHERE oid = '{old}'::regclass AND grantee <> relowner
"""
_SIZE = (
    "SELECT coalesce(sum({function}(to_regclass(name || $2))), 0)::bigint"
    " FROM unnest($1::text[]) AS name"
)
_SPELL_KEYS = (
    "UPDATE api_keys SET account_sid = left(account_sid, 2) || lower(substr(account_sid, 3))"
    " WHERE account_sid <> left(account_sid, 2) || lower(substr(account_sid, 3))"
)
_SHARDS = "SELECT count(*) FROM pg_dist_shard WHERE logicalrelid = $1::text::regclass"


class _State(NamedTuple):
    is_offline: bool
    is_listed: bool
    rows_done: int
    rows_total: int

    @property
    def old(self) -> Names:
        """Return the current names of the old tables."""
        return Names.ending(OLD if self.is_offline else "")


class _Stepped(NamedTuple):
    """The result of a step. `is_short`: the queue is short enough to lock the old tables."""

    state: _State
    rows: int
    is_short: bool


async def needed_bytes(db: Connection) -> int:
    """Return an estimate of the additional disk space that the rewrite needs, in bytes."""
    distributed = await distribution.is_distributed(db)
    name = f"{'citus' if distributed else 'pg'}_total_relation_size"
    statement = _SIZE.format(function=name)
    old, replaced, new = [
        int((await db.fetch(statement, list(DISTRIBUTED_TABLES), suffix))[0][0])
        for suffix in ("", OLD, NEW)
    ]
    return max(0, round((old or replaced) * SIZE_RATIO) - new)


async def rewrite(pool: Pool, on_progress: MigrationProgress) -> None:
    """Rewrite a database of version 1. Other processes may run the rewrite at the same time.

    Raises StoreUnavailableError, and NotAStoreError if a row can't be converted to version 2. In
    that case the data of the old tables is unchanged.
    """
    await pool.run(partial(under_lock, change=_begin))
    for name in DISTRIBUTED_TABLES:
        await pool.run(partial(under_lock, change=partial(_distribute, name=name)))
    await pool.run(partial(under_lock, change=_list))
    most = _FEWEST
    while True:
        stepped = await pool.run(partial(under_lock, change=partial(_step, most=most)))
        if stepped is None:
            return
        state, rows, is_short = stepped
        on_progress("rows", min(state.rows_done, state.rows_total), state.rows_total)
        if rows < _FEW_ROWS:
            most = min(most * 2, _MOST)
        elif rows > _MANY_ROWS:
            most = max(most // 2, _FEWEST)
        if is_short:
            await pool.run(_analyze)
            if await pool.run(partial(under_lock, change=_exchange)):
                return


async def drop_old(pool: Pool) -> None:
    """Drop the old tables, because they have personal data.

    Skips tables whose owner's rights the user doesn't have. A failed drop is logged, and tried
    again at the next start.
    """
    for name in await pool.run(_left_over):
        try:
            await pool.run(partial(under_lock, change=partial(_drop, name=name)))
        except StoreUnavailableError as error:
            log.warning("a table of version 1 can't be dropped", table=name, cause=str(error))


async def _state(db: Connection) -> _State | None:
    """Return the progress of the rewrite; None if it is finished."""
    ((version,),) = await db.fetch("SELECT max(version) FROM schema_migrations")
    if version != REWRITTEN:
        return None
    return _State(*(await db.fetch(_STATE))[0])


async def _begin(db: Connection) -> None:
    ((version, begun),) = await db.fetch(
        "SELECT max(version), to_regclass('rewrite_state') IS NOT NULL FROM schema_migrations"
    )
    if version != REWRITTEN or begun:
        return
    is_offline = await distribution.is_distributed(db)
    for statement in (*_TABLES, *tables_of_sessions(NEW)):
        await db.execute(statement)
    ((rows,),) = await db.fetch(_ESTIMATED)
    if not rows:  # not analyzed yet, or distributed
        ((rows,),) = await db.fetch("SELECT count(*) FROM interactions")
    await db.execute(
        "INSERT INTO rewrite_state (is_offline, rows_total) VALUES ($1, $2)", is_offline, rows
    )
    if is_offline:
        for name in DISTRIBUTED_TABLES:
            await _rename(db, name, "", OLD)
        return
    ((schema,),) = await db.fetch("SELECT quote_ident(current_schema())")
    await db.execute(_FUNCTION.format(schema=schema))
    for name in DISTRIBUTED_TABLES:
        await db.execute(_TRIGGER.format(table=name))


async def _distribute(db: Connection, *, name: str) -> None:
    """Distribute a new table over as many shards as the old one, if the old one is distributed."""
    state = await _state(db)
    if state is None or not state.is_offline:
        return
    ((shards,),) = await db.fetch(_SHARDS, f"{name}{OLD}")
    if shards:
        await db.execute(f"SET LOCAL citus.shard_count = {shards}")
    await distribution.distribute_by_session(db, f"{name}{NEW}", f"{DISTRIBUTED_TABLES[0]}{NEW}")


async def _list(db: Connection) -> None:
    """Add all Sessions to the queue, in the order of their SIDs."""
    state = await _state(db)
    if state is None or state.is_listed:
        return
    await db.execute(_LIST.format(**state.old._asdict()))
    await db.execute("UPDATE rewrite_state SET is_listed = true")


async def _step(db: Connection, *, most: int) -> _Stepped | None:
    """Copy at most `most` entries of the queue; return None if the rewrite is finished."""
    state = await _state(db)
    if state is None:
        return None
    rows = await _carry_some(db, state, most)
    await db.execute("UPDATE rewrite_state SET rows_done = rows_done + $1", rows)
    state = state._replace(rows_done=state.rows_done + rows)
    return _Stepped(state, rows, await _is_short(db))


async def _is_short(db: Connection) -> bool:
    ((left, has_listed),) = await db.fetch(_LEFT, _SHORT)
    return left < _SHORT and not has_listed


async def _carry_some(db: Connection, state: _State, most: int) -> int:
    entries = [Entry(*row) for row in await db.fetch(_TAKE, most)]
    carried = await carry_over(db, state.old, entries)
    if carried.rest:
        await db.execute_each(_PUT_BACK, carried.rest)
    return carried.rows


async def _analyze(db: Connection) -> None:
    for name in DISTRIBUTED_TABLES:
        await db.execute(f"ANALYZE {name}{NEW}")


async def _exchange(db: Connection) -> bool:
    """Replace the old tables with the new ones; return False if the queue is too long."""
    state = await _state(db)
    if state is None:
        return True
    if not await _is_short(db):
        return False
    if state.is_offline:
        # Citus changes several distributed tables in one transaction only in this mode.
        await db.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
    else:
        await db.execute(f"LOCK TABLE {', '.join(DISTRIBUTED_TABLES)} IN ACCESS EXCLUSIVE MODE")
    while (await db.fetch(_LEFT, 1))[0][0]:
        await _carry_some(db, state, _MOST)
    for name, old in zip(DISTRIBUTED_TABLES, state.old, strict=True):
        for (statement,) in await db.fetch(_LIKE_OLD.format(new=f"{name}{NEW}", old=old)):
            await db.execute(statement)
        if not state.is_offline:
            await db.execute(f"DROP TRIGGER rewrite_note ON {name}")
            await _rename(db, name, "", OLD)
        await _rename(db, name, NEW, "")
        await db.execute(f"COMMENT ON TABLE {name}{OLD} IS '{_REPLACED}'")
    await db.execute(_SPELL_KEYS)
    await db.execute("DROP FUNCTION IF EXISTS rewrite_note()")
    await db.execute("DROP TABLE rewrite_queue, rewrite_spellings, rewrite_state")
    step = MIGRATIONS[0]
    await db.execute(NOTE, step.version, step.name, step.compatible_with)
    return True


async def _rename(db: Connection, name: str, before: str, after: str) -> None:
    await db.execute(f"ALTER TABLE {name}{before} RENAME TO {name}{after}")
    for index in _INDEXES[name]:
        await db.execute(f"ALTER INDEX {index.format(before)} RENAME TO {index.format(after)}")


async def _left_over(db: Connection) -> list[str]:
    names = [f"{name}{OLD}" for name in DISTRIBUTED_TABLES]
    return [row[0] for row in await db.fetch(_LEFT_OVER, names, _REPLACED)]


async def _drop(db: Connection, *, name: str) -> None:
    if name in await _left_over(db):
        await db.execute(f"DROP TABLE {name}")
