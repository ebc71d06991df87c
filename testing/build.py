"""Factories of test data: random SIDs, parents and Interactions."""

import secrets
from datetime import UTC, datetime
from typing import Any, NamedTuple

from interaction_svc.domain import timestamps
from interaction_svc.domain.interactions import InteractionKey
from interaction_svc.domain.validation import normalize
from interaction_svc.v1 import interaction_pb2 as pb

NOON_US = int(datetime(2026, 2, 14, 12, tzinfo=UTC).timestamp()) * 1_000_000
SECOND_US = 1_000_000


def new_sid(prefix: str) -> str:
    return prefix + secrets.token_hex(16)


class Parents(NamedTuple):
    account_sid: str
    service_sid: str
    session_sid: str

    def key(self, sid: str) -> InteractionKey:
        return InteractionKey(self.service_sid, self.session_sid, sid)

    @property
    def path(self) -> str:
        return f"/v1/Services/{self.service_sid}/Sessions/{self.session_sid}/Interactions"


def new_parents(**given: str) -> Parents:
    return Parents(new_sid("AC"), new_sid("KS"), new_sid("KC"))._replace(**given)


def new_interaction(
    parents: Parents,
    created_us: int = NOON_US,
    updated_us: int | None = None,
    **fields: Any,
) -> pb.Interaction:
    """Return an Interaction of type message with both legs; `fields` replace its fields."""
    made = pb.Interaction(
        **{
            "sid": new_sid("KI"),
            **parents._asdict(),
            "type": pb.INTERACTION_TYPE_MESSAGE,
            "data": '{"body":"hello"}',
            "inbound": new_leg(pb.RESOURCE_STATUS_RECEIVED),
            "outbound": new_leg(pb.RESOURCE_STATUS_DELIVERED),
            **fields,
        }
    )
    timestamps.set_us(made.create_time, created_us)
    timestamps.set_us(made.update_time, created_us if updated_us is None else updated_us)
    return made


def new_leg(status: pb.ResourceStatus.ValueType = pb.RESOURCE_STATUS_SENT, **fields: str) -> pb.Leg:
    return pb.Leg(
        **{  # type: ignore[arg-type]
            "participant_sid": new_sid("KP"),
            "resource_sid": new_sid("SM"),
            "resource_status": status,
            "resource_type": "Message",
            "resource_url": "https://api.example.com/Messages/1.json",
            **fields,
        }
    )


def new_session(parents: Parents, count: int) -> list[pb.Interaction]:
    """Return Interactions a second apart, oldest first. Every third has its predecessor's time."""
    return sorted(
        (new_interaction(parents, NOON_US + (n - (n % 3 == 2)) * SECOND_US) for n in range(count)),
        key=in_order,
    )


def in_order(interaction: pb.Interaction) -> tuple[int, str]:
    return timestamps.to_us(interaction.create_time), interaction.sid


def normalized(given: pb.Interaction, *, now_us: int, make_sid: bool = False) -> pb.Interaction:
    """Return a normalized copy of an Interaction (see interaction_svc.domain.validation)."""
    record = pb.Interaction()
    record.CopyFrom(given)
    normalize(record, now_us=now_us, make_sid=make_sid)
    return record
