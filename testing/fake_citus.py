"""A fake of the Citus extension on one node, for machines without Citus. It has the same rules.

PostgreSQL finds its extensions relative to its own program. Therefore a new tree has copies of the
programs, links to all other files, and the fake extension.
"""

import os
import shutil
import subprocess
from pathlib import Path

_PROGRAMS = ("postgres", "initdb", "pg_ctl", "psql", "pg_config")
_CONTROL = """
comment = 'a stand-in that refuses what Citus refuses'
default_version = '1'
relocatable = false
schema = pg_catalog
"""
# The restrictions of Citus on tables: https://docs.citusdata.com. They are checked again after each
# later change of a distributed table.
_SQL = """
CREATE SCHEMA citus;
CREATE TABLE citus.pg_dist_partition (
    logicalrelid regclass PRIMARY KEY,
    partmethod   "char" NOT NULL,
    partkey      text,
    colocationid integer NOT NULL
);
ALTER TABLE citus.pg_dist_partition SET SCHEMA pg_catalog;
GRANT SELECT ON pg_catalog.pg_dist_partition TO public;
-- The fake has no shards; the rows stay in the table itself.
CREATE TABLE citus.pg_dist_shard (logicalrelid regclass, shardid bigint);
ALTER TABLE citus.pg_dist_shard SET SCHEMA pg_catalog;

CREATE FUNCTION pg_catalog.citus_total_relation_size(logicalrelid regclass) RETURNS bigint
    LANGUAGE sql STABLE AS 'SELECT pg_total_relation_size(logicalrelid)';

CREATE FUNCTION pg_catalog.column_to_column_name(logicalrelid regclass, partkey text)
    RETURNS text LANGUAGE sql STABLE AS 'SELECT partkey';

CREATE FUNCTION pg_catalog.citus_check(checked regclass, by_column text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    number smallint := (SELECT attnum FROM pg_attribute
                        WHERE attrelid = checked AND attname = by_column);
    other regclass;
BEGIN
    IF by_column IS NOT NULL AND number IS NULL THEN
        RAISE 'column "%" of relation "%" does not exist', by_column, checked
            USING ERRCODE = '42703';
    END IF;
    IF EXISTS (SELECT 1 FROM pg_index WHERE indrelid = checked AND indisunique
               AND number <> ALL (indkey::smallint[])) THEN
        RAISE 'cannot create constraint on "%"', checked USING ERRCODE = '42P16', DETAIL =
            'Distributed relations cannot have UNIQUE, EXCLUDE, or PRIMARY KEY constraints that do'
            ' not include the partition column';
    END IF;
    IF EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = checked AND NOT tgisinternal) THEN
        RAISE 'triggers are not supported on "%"', checked USING ERRCODE = '0A000';
    END IF;
    FOR other IN SELECT CASE conrelid WHEN checked THEN confrelid ELSE conrelid END
                 FROM pg_constraint WHERE contype = 'f' AND checked IN (conrelid, confrelid) LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_dist_partition AS a JOIN pg_dist_partition AS b
                       USING (colocationid) WHERE a.logicalrelid = checked
                       AND b.logicalrelid = other AND number IS NOT NULL) THEN
            RAISE 'cannot create foreign key constraint of "%"', checked USING ERRCODE = '0A000';
        END IF;
    END LOOP;
    IF EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = checked AND attidentity <> ''
               AND atttypid <> 'bigint'::regtype) THEN
        RAISE 'identity columns of "%" have to be bigint', checked USING ERRCODE = '0A000';
    END IF;
END $$;

CREATE FUNCTION pg_catalog.citus_recheck() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM citus_check(logicalrelid, partkey) FROM pg_dist_partition
        JOIN pg_class ON oid = logicalrelid;
END $$;
CREATE EVENT TRIGGER citus_recheck ON ddl_command_end EXECUTE FUNCTION pg_catalog.citus_recheck();

CREATE FUNCTION pg_catalog.create_distributed_table(
    table_name regclass, distribution_column text, colocate_with text DEFAULT 'default'
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    place integer;
BEGIN
    IF EXISTS (SELECT 1 FROM pg_dist_partition WHERE logicalrelid = table_name) THEN
        RAISE 'table "%" is already distributed', table_name USING ERRCODE = '42P16';
    END IF;
    IF colocate_with = 'none' THEN
        place := (SELECT coalesce(max(colocationid), 0) + 1 FROM pg_dist_partition);
    ELSE
        place := (SELECT colocationid FROM pg_dist_partition
                  WHERE logicalrelid = colocate_with::regclass AND partmethod = 'h');
        IF place IS NULL THEN
            RAISE 'relation % is not distributed', colocate_with USING ERRCODE = '42P16';
        END IF;
    END IF;
    EXECUTE format('LOCK TABLE %s IN EXCLUSIVE MODE', table_name);
    PERFORM citus_check(table_name, distribution_column);
    INSERT INTO pg_dist_partition VALUES (table_name, 'h', distribution_column, place);
END $$;

CREATE FUNCTION pg_catalog.create_reference_table(table_name regclass) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM citus_check(table_name, NULL);
    INSERT INTO pg_dist_partition VALUES (table_name, 'n', NULL, 0);
END $$;

-- The fake has no shards, so there is no local copy to truncate.
CREATE FUNCTION pg_catalog.truncate_local_data_after_distributing_table(table_name regclass)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_dist_partition WHERE logicalrelid = table_name) THEN
        RAISE 'table "%" is not distributed', table_name USING ERRCODE = '42P16';
    END IF;
END $$;
"""


def with_stand_in(programs: Path, folder: Path) -> Path:
    """Create a tree in which PostgreSQL has the extension, and return its folder of programs."""
    places = {
        name: Path(
            subprocess.run(
                [programs / "pg_config", f"--{name}"], check=True, capture_output=True, text=True
            ).stdout.strip()
        )
        for name in ("bindir", "sharedir", "pkglibdir")
    }
    common = Path(os.path.commonpath(places.values()))
    own = {name: folder / place.relative_to(common) for name, place in places.items()}
    own["bindir"].mkdir(parents=True)
    for name in _PROGRAMS:
        shutil.copy2(places["bindir"] / name, own["bindir"] / name)
    _link_all(places["pkglibdir"], own["pkglibdir"])
    _link_all(places["sharedir"], own["sharedir"], but="extension")
    extensions = own["sharedir"] / "extension"
    _link_all(places["sharedir"] / "extension", extensions)
    (extensions / "citus.control").write_text(_CONTROL)
    (extensions / "citus--1.sql").write_text(_SQL)
    return own["bindir"]


def _link_all(source: Path, target: Path, but: str = "") -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name != but and not (target / path.name).exists():
            (target / path.name).symlink_to(path)
