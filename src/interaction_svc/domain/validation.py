"""Validation and normalization of an Interaction before it is stored.

protos/interaction_svc/v1/interaction.proto documents the limits for callers.
"""

import re

from google.protobuf.timestamp_pb2 import Timestamp

from interaction_svc.domain import timestamps
from interaction_svc.domain.errors import InvalidField
from interaction_svc.domain.sids import Sid, canonical_sid, new_interaction_sid
from interaction_svc.v1 import interaction_pb2 as pb

MAX_DATA_BYTES = 262_144
MAX_RESOURCE_TYPE_LENGTH = 64
MAX_RESOURCE_URL_LENGTH = 2048
EARLIEST_US = 1_199_145_600_000_000
"""2008-01-01T00:00:00Z, the year in which Twilio started.

Retention would delete Interactions with an earlier time immediately.
"""
LATEST_AHEAD_US = 24 * 60 * 60 * 1_000_000
"""A time may be at most one day ahead of this machine's clock.

Interactions with times far in the future would never expire.
"""

# Cached: values() of an enum builds a list each time, which took a third of a record's validation.
_VALUES = {enum: frozenset(enum.values()) for enum in (pb.InteractionType, pb.ResourceStatus)}
_TYPES = _VALUES[pb.InteractionType] - {pb.INTERACTION_TYPE_UNSPECIFIED}
_STATUSES = _VALUES[pb.ResourceStatus]
# One match checks all SIDs in canonical spelling. Each SID is matched separately only if that
# fails. A record is validated in 5 µs instead of 8 µs. No SID contains a comma, and each kind has a
# fixed length, so an invalid SID can't make another one match.
_are_sids = re.compile(
    ",".join(sid.canonical for sid in (Sid.INTERACTION, Sid.ACCOUNT, Sid.SERVICE, Sid.SESSION))
).fullmatch
_are_sids_of_leg = re.compile(
    f"(?:{Sid.PARTICIPANT.canonical})?,(?:{Sid.RESOURCE.canonical})?"
).fullmatch
_NO_URL = r'\s\x00-\x1f\x7f-\x9f<>"'
_NO_USER = _NO_URL + r"/?#\\@\[\]"
_is_url = re.compile(  # user, host, port, rest
    # Not (?i:https?), which also matches the long s (U+017F).
    rf"[Hh][Tt]{{2}}[Pp][Ss]?://(?:[^{_NO_USER}]*@)?(?:[^{_NO_USER}:]+|\[[0-9A-Fa-f:.]+\])"
    rf"(?::[0-9]*)?(?:[/?#][^{_NO_URL}]*)?"
).fullmatch
_RESOURCE_TYPES = {"message": "Message", "call": "Call"}


def normalize(record: pb.Interaction, *, now_us: int, make_sid: bool = False) -> None:
    """Validate an Interaction, and convert it in place to its stored form. Raises InvalidField.

    Hexadecimal digits of SIDs become lower case, and times are cut to microseconds. A missing
    update_time becomes the create_time. Empty legs and unknown fields are dropped. With `make_sid`,
    a missing sid is generated; a missing create_time then becomes `now_us`, the current time.
    """
    record.DiscardUnknownFields()
    if make_sid and not record.sid:
        record.sid = new_interaction_sid(now_us)
        if not record.HasField("create_time"):
            timestamps.set_us(record.create_time, now_us)
    _check_sids(record)
    if record.type not in _TYPES:
        if record.type == pb.INTERACTION_TYPE_UNSPECIFIED:
            raise InvalidField("type", "is required; there is a value for an unknown type")
        check_enum(pb.InteractionType, "type", record.type)
    if len(record.data.encode()) > MAX_DATA_BYTES:
        raise InvalidField("data", f"must be at most {MAX_DATA_BYTES:,} bytes of UTF-8")
    if record.HasField("inbound") and not _normalize_leg("inbound", record.inbound):
        record.ClearField("inbound")
    if record.HasField("outbound") and not _normalize_leg("outbound", record.outbound):
        record.ClearField("outbound")
    if not record.HasField("create_time"):
        raise InvalidField("create_time", "is required")
    created_us = _normalize_time("create_time", record.create_time)
    latest_us = now_us + LATEST_AHEAD_US
    if not EARLIEST_US <= created_us <= latest_us:
        raise InvalidField(
            "create_time", "must lie between 2008-01-01T00:00:00Z and one day from now"
        )
    if record.HasField("update_time"):
        updated_us = _normalize_time("update_time", record.update_time)
        if not created_us - created_us % 1_000_000 <= updated_us <= latest_us:
            raise InvalidField(
                "update_time", "must lie between the second of create_time and one day from now"
            )
    else:
        record.update_time.CopyFrom(record.create_time)


def _check_sids(record: pb.Interaction) -> None:
    sid, account_sid = record.sid, record.account_sid
    service_sid, session_sid = record.service_sid, record.session_sid
    if not _are_sids(f"{sid},{account_sid},{service_sid},{session_sid}"):
        check_sid(Sid.INTERACTION, "sid", sid)
        check_sid(Sid.ACCOUNT, "account_sid", account_sid)
        check_sid(Sid.SERVICE, "service_sid", service_sid)
        check_sid(Sid.SESSION, "session_sid", session_sid)
        record.sid = canonical_sid(sid)
        record.account_sid = canonical_sid(account_sid)
        record.service_sid = canonical_sid(service_sid)
        record.session_sid = canonical_sid(session_sid)


def _normalize_leg(name: str, leg: pb.Leg) -> bool:
    """Normalize a leg, and return whether any of its fields is set."""
    participant_sid, resource_sid = leg.participant_sid, leg.resource_sid
    status, kind, url = leg.resource_status, leg.resource_type, leg.resource_url
    if not _are_sids_of_leg(f"{participant_sid},{resource_sid}"):
        if participant_sid:
            check_sid(Sid.PARTICIPANT, f"{name}.participant_sid", participant_sid)
            leg.participant_sid = canonical_sid(participant_sid)
        if resource_sid:
            check_sid(Sid.RESOURCE, f"{name}.resource_sid", resource_sid)
            leg.resource_sid = canonical_sid(resource_sid)
    if status not in _STATUSES:
        check_enum(pb.ResourceStatus, f"{name}.resource_status", status)
    if len(kind) > MAX_RESOURCE_TYPE_LENGTH:
        problem = f"must be at most {MAX_RESOURCE_TYPE_LENGTH} characters"
        raise InvalidField(f"{name}.resource_type", problem)
    if kind != (documented := canonical_resource_type(kind)):
        leg.resource_type = documented
    if len(url) > MAX_RESOURCE_URL_LENGTH:
        problem = f"must be at most {MAX_RESOURCE_URL_LENGTH:,} characters"
        raise InvalidField(f"{name}.resource_url", problem)
    if url and not _is_url(url):
        problem = 'must be an http or https address, without white space, control characters or <>"'
        raise InvalidField(f"{name}.resource_url", problem)
    return bool(participant_sid or resource_sid or status or kind or url)


def canonical_resource_type(text: str) -> str:
    """Return a resource type in its documented spelling. Twilio may send upper or lower case."""
    return _RESOURCE_TYPES.get(text.lower(), text)


def _normalize_time(name: str, time: Timestamp) -> int:
    """Cut a time to microseconds in place; return it in microseconds since 1970."""
    us = check_time(name, time)
    if time.nanos % 1000:
        time.nanos -= time.nanos % 1000
    return us


def check_sid(kind: Sid, field: str, value: str) -> None:
    """Raise InvalidField unless the value is a SID of this kind."""
    if kind.matches(value):
        return
    if not value:
        raise InvalidField(field, f"is required; it must match {kind.pattern}")
    raise InvalidField(field, f"must match {kind.pattern}")


def check_enum(
    enum: type[pb.InteractionType] | type[pb.ResourceStatus], field: str, value: int
) -> None:
    """Raise InvalidField unless the enum has the value. Protobuf accepts any number."""
    if value not in _VALUES[enum]:
        raise InvalidField(field, f"{value} is not a value of {enum.DESCRIPTOR.name}")


def check_time(field: str, time: Timestamp) -> int:
    """Return a Timestamp in microseconds since 1970. Raises InvalidField if it is out of bounds."""
    try:
        return timestamps.to_us(time)
    except ValueError as error:
        raise InvalidField(field, str(error)) from error
