"""The adapter: Interactions to and from the vendor's JSON, as pure functions.

The shape is that of Twilio Proxy v1: 19 properties, all of them there, `null` where nothing is
known. A leg is five of them with a prefix; a leg that is unset is all null.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from interaction_svc import timestamps
from interaction_svc.errors import InvalidField
from interaction_svc.records import documented_resource_type
from interaction_svc.v1 import interaction_pb2 as pb

Resource = dict[str, str | None]
"""One Interaction as the vendor's JSON object."""

LIST_KEY = "interactions"


def _words(enum: Any, prefix: str) -> dict[int, str]:
    """Give the vendor's words for an enum's numbers: RESOURCE_STATUS_IN_PROGRESS, in-progress."""
    return {
        number: name.removeprefix(prefix).lower().replace("_", "-")
        for name, number in enum.items()
        if number  # 0 is "not given", null in JSON
    }


TYPES = _words(pb.InteractionType, "INTERACTION_TYPE_")
STATUSES = _words(pb.ResourceStatus, "RESOURCE_STATUS_")
_TYPE_NUMBERS = {word: number for number, word in TYPES.items()}
_STATUS_NUMBERS = {word: number for number, word in STATUSES.items()}

_TIMES = {"create_time": "date_created", "update_time": "date_updated"}
_SIDS = ("sid", "account_sid", "service_sid", "session_sid")
_LEG_TEXTS = ("participant_sid", "resource_sid", "resource_type", "resource_url")
_LEG_PROPERTIES = (*_LEG_TEXTS, "resource_status")


PROPERTIES = frozenset(
    [
        *(*_SIDS, "data", "type", *_TIMES.values(), "url"),
        *(f"{side}_{name}" for side in ("inbound", "outbound") for name in _LEG_PROPERTIES),
    ]
)
"""The 19 properties of the JSON object."""


def to_json(interaction: pb.Interaction, base_url: str, *, fraction: bool = False) -> Resource:
    """Give an Interaction as the vendor's JSON object.

    `base_url` is what its `url` begins with. Times are whole seconds, as the vendor's SDKs want
    them; with `fraction` they keep their microseconds.
    """
    resource: Resource = {
        "sid": interaction.sid,
        "session_sid": interaction.session_sid,
        "service_sid": interaction.service_sid,
        "account_sid": interaction.account_sid,
        "data": interaction.data if interaction.HasField("data") else None,
        "type": TYPES.get(interaction.type),
    }
    for side, leg in (("inbound", interaction.inbound), ("outbound", interaction.outbound)):
        resource[f"{side}_participant_sid"] = leg.participant_sid or None
        resource[f"{side}_resource_sid"] = leg.resource_sid or None
        resource[f"{side}_resource_status"] = STATUSES.get(leg.resource_status)
        resource[f"{side}_resource_type"] = leg.resource_type or None
        resource[f"{side}_resource_url"] = leg.resource_url or None
    for name, key in _TIMES.items():
        known = interaction.HasField(name)  # type: ignore[arg-type]
        us = timestamps.to_us(getattr(interaction, name)) if known else 0
        resource[key] = timestamps.text(us, fraction=fraction) if known else None
    resource["url"] = interaction_url(base_url, interaction)
    return resource


def from_json(resource: object) -> pb.Interaction:
    """Read the vendor's JSON object.

    Words are taken in any case, times with any offset and fraction; keys may be missing, which is
    the same as null, and others than the vendor's are passed over, as is `url`. Whether the values
    make a record is checked where it is recorded. Raises InvalidField, naming the property.
    """
    if not isinstance(resource, Mapping):
        raise InvalidField("", "is not a JSON object")
    interaction = pb.Interaction()
    for name in _SIDS:
        _set_text(interaction, name, resource, name)
    _set_text(interaction, "data", resource, "data")
    kind = _word(resource, "type", _TYPE_NUMBERS)
    if kind:
        interaction.type = pb.InteractionType.ValueType(kind)
    for side in ("inbound", "outbound"):
        leg = pb.Leg()
        for name in _LEG_TEXTS:
            _set_text(leg, name, resource, f"{side}_{name}")
        leg.resource_type = documented_resource_type(leg.resource_type)
        status = _word(resource, f"{side}_resource_status", _STATUS_NUMBERS)
        leg.resource_status = pb.ResourceStatus.ValueType(status)
        if leg.ByteSize():
            getattr(interaction, side).CopyFrom(leg)
    for name, key in _TIMES.items():
        value = _text(resource, key)
        if value is not None:
            try:
                timestamps.set_us(getattr(interaction, name), timestamps.parse(value))
            except ValueError as error:
                raise InvalidField(key, str(error)) from error
    return interaction


def property_of(field: str) -> str:
    """Give the JSON property of a field of Interaction: inbound.resource_sid is a property too."""
    return _TIMES.get(field, field.replace(".", "_"))


def _text(resource: Mapping[str, object], key: str) -> str | None:
    value = resource.get(key)
    if value is None or isinstance(value, str):
        return value
    raise InvalidField(key, "must be a string or null")


def _set_text(
    message: pb.Interaction | pb.Leg, name: str, resource: Mapping[str, object], key: str
) -> None:
    value = _text(resource, key)
    if value is not None:
        try:
            setattr(message, name, value)
        except ValueError as error:  # half of a surrogate pair
            raise InvalidField(key, "is not valid Unicode") from error


def _word(resource: Mapping[str, object], key: str, numbers: Mapping[str, int]) -> int:
    value = _text(resource, key)
    return 0 if value is None else number_of(value, key, numbers)


def number_of(value: str, field: str, numbers: Mapping[str, int]) -> int:
    """Give the number of one of the vendor's words, in any case. Raises InvalidField."""
    number = numbers.get(value.lower())
    if number is None:
        raise InvalidField(field, f"must be one of {', '.join(sorted(numbers))}")
    return number


def type_number(value: str, field: str) -> int:
    """Give the number of an Interaction's type by its word. Raises InvalidField."""
    return number_of(value, field, _TYPE_NUMBERS)


def status_number(value: str, field: str) -> int:
    """Give the number of a resource's status by its word. Raises InvalidField."""
    return number_of(value, field, _STATUS_NUMBERS)


def list_url(base_url: str, service_sid: str, session_sid: str) -> str:
    """Give the address of a Session's Interactions."""
    return f"{base_url}/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"


def interaction_url(base_url: str, interaction: pb.Interaction) -> str:
    """Give the address of an Interaction."""
    parents = interaction.service_sid, interaction.session_sid
    return f"{list_url(base_url, *parents)}/{interaction.sid}"


def to_envelope(
    interactions: Sequence[Resource],
    url: str,
    *,
    page: int,
    page_size: int,
    page_token: str,
    next_page_token: str,
    previous_page_token: str,
    carried: Sequence[tuple[str, str]] = (),
) -> dict[str, object]:
    """Give a page in the vendor's envelope.

    `url` is the list's own; `page` the number the caller gave the page, from 0; `carried` are the
    further query parameters (filter and order) that every link repeats.
    """

    def link(number: int, token: str) -> str:
        query: list[tuple[str, object]] = [("PageSize", page_size), ("Page", number)]
        if token:
            query.append(("PageToken", token))
        return f"{url}?{urlencode([*query, *carried])}"

    return {
        LIST_KEY: interactions,
        "meta": {
            "page": page,
            "page_size": page_size,
            "first_page_url": link(0, ""),
            "previous_page_url": (
                link(max(page - 1, 0), previous_page_token) if previous_page_token else None
            ),
            "url": link(page, page_token),
            "next_page_url": link(page + 1, next_page_token) if next_page_token else None,
            "key": LIST_KEY,
        },
    }
