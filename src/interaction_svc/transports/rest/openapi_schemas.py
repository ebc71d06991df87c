"""The schemas of the REST API's responses, in the dialect of OpenAPI 3.0.

OpenAPI 3.0 has no type `null`. A schema that allows null has `nullable`, and its `enum`, if there
is one, contains null.
"""

from collections.abc import Mapping
from typing import Any

from interaction_svc.codec.twilio_json import LIST_KEY, MAX_PAGE, PROPERTIES, STATUSES, TYPES
from interaction_svc.domain.paging import MAX_PAGE_SIZE
from interaction_svc.domain.sids import Sid

Schema = dict[str, Any]

_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
_LEG: Mapping[str, tuple[Schema, str]] = {
    "participant_sid": ({"pattern": Sid.PARTICIPANT.pattern}, "The Participant's SID."),
    "resource_sid": ({"pattern": Sid.RESOURCE.pattern}, "The SID of the Message or Call."),
    "resource_status": ({"enum": [*STATUSES.values(), None]}, "The status of the resource."),
    "resource_type": ({"example": "Message"}, "The type of the resource: Message or Call."),
    "resource_url": ({}, "The URL of the resource."),
}


def interaction() -> Schema:
    """Return the schema of an Interaction."""
    time = text_or_null({"pattern": _TIME}, "In GMT, whole seconds.")
    properties: dict[str, Schema] = {
        "sid": {"type": "string", "pattern": Sid.INTERACTION.pattern},
        "session_sid": {"type": "string", "pattern": Sid.SESSION.pattern},
        "service_sid": {"type": "string", "pattern": Sid.SERVICE.pattern},
        "account_sid": {"type": "string", "pattern": Sid.ACCOUNT.pattern},
        "data": text_or_null({}, "The content, as JSON in a string. It is personal data."),
        "type": {"type": "string", "enum": list(TYPES.values())},
        **{
            f"{side}_{name}": text_or_null(schema, description)
            for side in ("inbound", "outbound")
            for name, (schema, description) in _LEG.items()
        },
        "date_created": time,
        "date_updated": time,
        "url": {"type": "string", "description": "The absolute URL of this Interaction."},
    }
    assert properties.keys() == PROPERTIES  # noqa: S101 each property has a description
    return object_of(properties)


def envelope() -> Schema:
    """Return the schema of a page of Interactions."""
    link: Schema = {"type": "string", "description": "The absolute URL of a page."}
    link_or_null = text_or_null({}, "The absolute URL of a page; null if there is none.")
    meta: dict[str, Schema] = {
        "first_page_url": link,
        "key": {"type": "string", "enum": [LIST_KEY]},
        "next_page_url": link_or_null,
        "page": {"type": "integer", "minimum": 0, "maximum": MAX_PAGE},
        "page_size": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE},
        "previous_page_url": link_or_null,
        "url": link,
    }
    interactions = {"type": "array", "items": ref("Interaction"), "maxItems": MAX_PAGE_SIZE}
    return object_of({LIST_KEY: interactions, "meta": object_of(meta)})


def error() -> Schema:
    """Return the schema of an error."""
    return object_of(
        {
            "code": {"type": "integer", "description": "One of the vendor's codes."},
            "message": {"type": "string"},
            "more_info": {"type": "string"},
            "status": {"type": "integer", "description": "The HTTP status."},
        }
    )


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(properties: Mapping[str, Schema]) -> Schema:
    """Return the schema of an object with all of these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def text_or_null(schema: Schema, description: str) -> Schema:
    """Return the schema of a text that may be null."""
    return {"type": "string", "nullable": True, "description": description, **schema}
