"""Version 1 of the PostgreSQL schema, and the writes of a server of that version."""

from typing import NamedTuple

import asyncpg

from interaction_svc.domain import timestamps
from interaction_svc.store import decode, row_of
from interaction_svc.v1 import interaction_pb2 as pb
from testing.build import Parents, new_sid

# As released. Don't change it.
SCHEMA = """
CREATE TABLE schema_migrations (
    version         integer PRIMARY KEY,
    name            text NOT NULL,
    compatible_with integer NOT NULL,
    applied_at      timestamptz NOT NULL DEFAULT now()
);
INSERT INTO schema_migrations (version, name, compatible_with)
    VALUES (0, 'the row that is locked by who migrates', 0),
           (1, 'interactions, tombstones, owners of sessions, api keys', 1);
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
);
CREATE UNIQUE INDEX interactions_by_creation ON interactions (session_sid, created_us, sid);
CREATE TABLE tombstones (
    session_sid text COLLATE "C" NOT NULL,
    sid         text COLLATE "C" NOT NULL,
    deleted_us  bigint NOT NULL,
    PRIMARY KEY (session_sid, sid)
);
CREATE TABLE session_owners (
    session_sid text COLLATE "C" NOT NULL,
    service_sid text COLLATE "C" NOT NULL,
    account_sid text COLLATE "C" NOT NULL,
    PRIMARY KEY (session_sid, service_sid, account_sid)
);
CREATE TABLE api_keys (
    sid         text COLLATE "C" PRIMARY KEY,
    account_sid text COLLATE "C",
    role        text NOT NULL,
    secret_hash bytea NOT NULL,
    created_us  bigint NOT NULL,
    revoked_us  bigint,
    added       bigint GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX api_keys_by_account ON api_keys (account_sid);
"""
_RECORD = (
    "INSERT INTO interactions VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
    " ON CONFLICT (session_sid, sid) DO UPDATE SET updated_us = $6, type = $7,"
    " inbound_participant_sid = $8, outbound_participant_sid = $9, inbound_resource_sid = $10,"
    " outbound_resource_sid = $11, inbound_resource_status = $12, outbound_resource_status = $13,"
    " frame = $14 WHERE interactions.updated_us <= $6"
)


class Values(NamedTuple):
    """A row of `interactions` in version 1."""

    session_sid: str
    sid: str
    account_sid: str
    service_sid: str
    created_us: int
    updated_us: int
    type: int
    inbound_participant_sid: str | None
    outbound_participant_sid: str | None
    inbound_resource_sid: str | None
    outbound_resource_sid: str | None
    inbound_resource_status: int | None
    outbound_resource_status: int | None
    frame: bytes


def values_of(interaction: pb.Interaction) -> Values:
    row = row_of(interaction)
    return Values(**{name: getattr(row, name) for name in Values._fields})


async def record(db: asyncpg.Connection, *interactions: pb.Interaction) -> None:
    """Record as a server of version 1 does."""
    for interaction in interactions:
        values = values_of(interaction)
        async with db.transaction():
            await db.execute(_RECORD, *values)
            await db.execute(
                "INSERT INTO session_owners VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                values.session_sid, values.service_sid, values.account_sid,
            )  # fmt: skip


async def delete(db: asyncpg.Connection, interaction: pb.Interaction, now_us: int) -> None:
    """Delete as a server of version 1 does."""
    key = interaction.session_sid, interaction.sid
    async with db.transaction():
        await db.execute("DELETE FROM interactions WHERE session_sid = $1 AND sid = $2", *key)
        await db.execute(
            "INSERT INTO tombstones VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", *key, now_us
        )


def copy_of(template: Values, parents: Parents, us: int) -> Values:
    """Return a copy of the template with other SIDs and times, also in the frame."""
    ids = {**parents._asdict(), "sid": new_sid("KI")}
    frame = template.frame
    for name, sid in ids.items():
        frame = frame.replace(getattr(template, name).encode(), sid.encode())
    interaction = decode(frame)
    timestamps.set_us(interaction.create_time, us)
    timestamps.set_us(interaction.update_time, us)
    return values_of(interaction)
