"""The rivals' database: the service's Interactions as plain columns, without encoded frames.

`python -m bench.rivals.copy_db OURS THEIRS` creates it. It has the Interactions twice, in the form
that each rival needs: `interactions` for gRPC, with enums as numbers and times in microseconds, and
`resources` for JSON, with enums and times as the vendor's texts.
"""

import argparse
import sqlite3
from pathlib import Path

from interaction_svc.codec import twilio_json
from interaction_svc.domain import timestamps
from interaction_svc.store import decode
from interaction_svc.v1 import interaction_pb2 as pb

_LEG_COLUMNS = (
    "participant_sid", "resource_sid", "resource_status", "resource_type", "resource_url",
)  # fmt: skip
COLUMNS = (
    "session_sid", "sid", "account_sid", "service_sid", "created_us", "updated_us", "type", "data",
    *(f"{side}_{name}" for side in ("inbound", "outbound") for name in _LEG_COLUMNS),
)  # fmt: skip
"""The columns of `interactions`. If a leg is unset, its five columns are null."""
RESOURCE_COLUMNS = ("created_us", *sorted(twilio_json.PROPERTIES - {"url"}))
_TABLES = {"interactions": COLUMNS, "resources": RESOURCE_COLUMNS}
_BATCH = 1000

_Row = list[str | int | None]


def copy(ours: Path, theirs: Path) -> int:
    """Create the rivals' database, which must not exist, and return its number of Interactions.

    100,000 take some six seconds.
    """
    source = sqlite3.connect(f"{ours.absolute().as_uri()}?mode=ro", uri=True)
    target = sqlite3.connect(theirs, isolation_level=None)
    try:
        target.execute("PRAGMA journal_mode = WAL")
        target.execute("BEGIN")
        for table, columns in _TABLES.items():
            target.execute(
                f"CREATE TABLE {table} ({', '.join(columns)}, PRIMARY KEY (session_sid, sid))"
            )
        count = _copy_rows(source, target)
        for table in _TABLES:
            target.execute(
                f"CREATE UNIQUE INDEX {table}_by_creation ON {table} (session_sid, created_us, sid)"
            )
        target.execute("COMMIT")
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count
    finally:
        source.close()
        target.close()


def _copy_rows(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    count = 0
    # SIDs are random, so that the rows of Sessions are interleaved, as in production.
    cursor = source.execute("SELECT frame FROM interactions ORDER BY sid")
    while frames := cursor.fetchmany(_BATCH):
        count += len(frames)
        interactions = [decode(frame) for (frame,) in frames]
        for table, rows in (
            ("interactions", map(_row, interactions)),
            ("resources", map(_resource_row, interactions)),
        ):
            places = ", ".join("?" * len(_TABLES[table]))
            target.executemany(f"INSERT INTO {table} VALUES ({places})", rows)
    return count


def _row(interaction: pb.Interaction) -> _Row:
    return [
        interaction.session_sid,
        interaction.sid,
        interaction.account_sid,
        interaction.service_sid,
        timestamps.to_us(interaction.create_time),
        timestamps.to_us(interaction.update_time),
        interaction.type,
        interaction.data if interaction.HasField("data") else None,
        *(
            getattr(leg, name) or None
            for leg in (interaction.inbound, interaction.outbound)
            for name in _LEG_COLUMNS
        ),
    ]


def _resource_row(interaction: pb.Interaction) -> _Row:
    resource = twilio_json.to_json(interaction, "")
    return [
        timestamps.to_us(interaction.create_time),
        *(resource[name] for name in RESOURCE_COLUMNS[1:]),
    ]


def main() -> None:
    """Create the database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ours", type=Path, help="the service's database")
    parser.add_argument("theirs", type=Path, help="the rivals' database, to be made")
    arguments = parser.parse_args()
    print(f"{copy(arguments.ours, arguments.theirs):,} Interactions")


if __name__ == "__main__":
    main()
