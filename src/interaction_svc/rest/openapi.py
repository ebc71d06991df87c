"""The description of the REST API as an OpenAPI 3.1 document, made of what the code itself uses."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from interaction_svc import __version__
from interaction_svc.errors import (
    InteractionNotFound,
    Internal,
    InvalidField,
    Overloaded,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
)
from interaction_svc.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, MAX_TOKEN_LENGTH
from interaction_svc.rest.adapter import LIST_KEY, PROPERTIES, STATUSES, TYPES
from interaction_svc.rest.parameters import MAX_PAGE
from interaction_svc.rest.protocol import HeadersTooLarge, HeadersTooSlow
from interaction_svc.sids import Sid

Schema = dict[str, Any]

_LIST = "/v1/Services/{ServiceSid}/Sessions/{SessionSid}/Interactions"
_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
_LEG: Mapping[str, tuple[Schema, str]] = {
    "participant_sid": ({"pattern": Sid.PARTICIPANT.pattern}, "The Participant's SID."),
    "resource_sid": ({"pattern": Sid.RESOURCE.pattern}, "The SID of the Message or Call."),
    "resource_status": ({"enum": [*STATUSES.values(), None]}, "The status of the resource."),
    "resource_type": ({"examples": ["Message", "Call"]}, "What the resource is."),
    "resource_url": ({}, "The URL of the resource."),
}


def openapi_document(base_url: str) -> dict[str, Any]:
    """Describe the API as it is served under this base URL, which has no slash at its end."""
    api = _common_responses()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Interactions",
            "summary": "The log of Twilio Proxy Interactions, in the vendor's shape.",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url}],
        "security": [{"basic": []}, {"bearer": []}],
        "tags": [
            {"name": "Interactions", "description": "The Interactions of a Session."},
            {"name": "Service", "description": "The service itself. It asks for no credentials."},
        ],
        "paths": {
            _LIST: {"parameters": _path("ServiceSid", "SessionSid"), "get": _list_operation(api)},
            f"{_LIST}/{{Sid}}": {
                "parameters": _path("ServiceSid", "SessionSid", "Sid"),
                "get": _operation("FetchInteraction", "Fetch an Interaction", api)
                | {"responses": {"200": _answer("The Interaction.", _ref("Interaction")), **api}},
                "delete": _operation("DeleteInteraction", "Delete an Interaction for good", api)
                | {"responses": {"204": _answer("It is deleted."), **api}},
            },
            "/healthz": _watched("GetHealth", "Whether the process is alive"),
            "/readyz": _watched("GetReadiness", "Whether it can do its work", is_refusable=True),
            "/openapi.json": _watched("GetDescription", "This document", {"type": "object"}),
        },
        "components": {
            "securitySchemes": {
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "An account SID or a key SID, and a secret.",
                },
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key's SID, a full stop, and its secret.",
                },
            },
            "schemas": {
                "Interaction": _interaction(),
                "InteractionList": _envelope(),
                "Error": _error(),
                "Status": _object({"status": {"enum": ["ok", "unavailable"]}}),
            },
            "headers": _headers(),
        },
    }


def _list_operation(api: Schema) -> Schema:
    operation = _operation("ListInteractions", "List a Session's Interactions, by pages", api)
    page = _answer("A page of them.", _ref("InteractionList"))
    return operation | {"parameters": _query(), "responses": {"200": page, **api}}


def _operation(name: str, summary: str, responses: Schema) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["Interactions"],
        "responses": responses,
    }


def _watched(
    name: str, summary: str, schema: Schema | None = None, *, is_refusable: bool = False
) -> Schema:
    """Describe what those ask who watch the service, or want to learn of it."""
    status = _ref("Status")
    responses = {"200": _answer("It is so.", schema or status)} | _refusals_of_the_connection()
    if is_refusable:
        responses["503"] = _answer("It is not so.", status)
    operation = _operation(name, summary, responses)
    return {"get": operation | {"tags": ["Service"], "security": []}}


def _path(*names: str) -> list[Schema]:
    kinds = {"ServiceSid": Sid.SERVICE, "SessionSid": Sid.SESSION, "Sid": Sid.INTERACTION}
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": kinds[name].pattern},
        }
        for name in names
    ]


def _query() -> list[Schema]:
    text: Schema = {"type": "string"}
    parameters: dict[str, tuple[Schema, str]] = {
        "PageSize": (
            {"type": "integer", "minimum": 1, "default": DEFAULT_PAGE_SIZE},
            f"How many Interactions a page has; above {MAX_PAGE_SIZE} it is {MAX_PAGE_SIZE}.",
        ),
        "Page": (
            {"type": "integer", "minimum": 0, "maximum": MAX_PAGE, "default": 0},
            "The number of the page, for the caller's own count; above 0 it needs a PageToken.",
        ),
        "PageToken": (
            text | {"pattern": "^[A-Za-z0-9_-]*$", "maxLength": MAX_TOKEN_LENGTH},
            "Where the page begins: what a link of an earlier page has.",
        ),
        "Order": (text | {"enum": ["asc", "desc"]}, "Oldest first, or newest first."),
        "Type": (text | {"enum": list(TYPES.values())}, "Interactions of this type only."),
        "DateCreatedAfter": (
            text | {"format": "date-time"},
            "Interactions that were created at this time or later only.",
        ),
        "DateCreatedBefore": (
            text | {"format": "date-time"},
            "Interactions that were created before this time only.",
        ),
        "ParticipantSid": (
            text | {"pattern": Sid.PARTICIPANT.pattern},
            "Interactions with this Participant on either side only.",
        ),
        "ResourceSid": (
            text | {"pattern": Sid.RESOURCE.pattern},
            "Interactions with this Message or Call on either side only.",
        ),
        "ResourceStatus": (
            text | {"enum": list(STATUSES.values())},
            "Interactions with this status on either side only.",
        ),
    }
    return [
        {"name": name, "in": "query", "schema": schema, "description": description}
        for name, (schema, description) in parameters.items()
    ]


def _interaction() -> Schema:
    time = _text_or_null({"pattern": _TIME}, "In GMT, whole seconds.")
    properties: dict[str, Schema] = {
        "sid": {"type": "string", "pattern": Sid.INTERACTION.pattern},
        "session_sid": {"type": "string", "pattern": Sid.SESSION.pattern},
        "service_sid": {"type": "string", "pattern": Sid.SERVICE.pattern},
        "account_sid": {"type": "string", "pattern": Sid.ACCOUNT.pattern},
        "data": _text_or_null({}, "What was said, as JSON in a string: personal data."),
        "type": {"type": "string", "enum": list(TYPES.values())},
        **{
            f"{side}_{name}": _text_or_null(schema, description)
            for side in ("inbound", "outbound")
            for name, (schema, description) in _LEG.items()
        },
        "date_created": time,
        "date_updated": time,
        "url": {"type": "string", "description": "The absolute URL of this Interaction."},
    }
    assert properties.keys() == PROPERTIES  # noqa: S101 a new one is described too
    return _object(properties)


def _envelope() -> Schema:
    link = _text_or_null({}, "The absolute URL of a page.")
    meta = {
        "first_page_url": link,
        "key": {"const": LIST_KEY},
        "next_page_url": link,
        "page": {"type": "integer", "minimum": 0, "maximum": MAX_PAGE},
        "page_size": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE},
        "previous_page_url": link,
        "url": link,
    }
    interactions = {"type": "array", "items": _ref("Interaction"), "maxItems": MAX_PAGE_SIZE}
    return _object({LIST_KEY: interactions, "meta": _object(meta)})


def _error() -> Schema:
    return _object(
        {
            "code": {"type": "integer", "description": "One of the vendor's codes."},
            "message": {"type": "string"},
            "more_info": {"type": "string"},
            "status": {"type": "integer", "description": "The HTTP status."},
        }
    )


def _common_responses() -> Schema:
    """Give the errors of every operation on Interactions."""
    return _refusals_of_the_connection() | {
        "401": _refusal(Unauthenticated, "WWW-Authenticate"),
        "403": _refusal(PermissionDenied),
        "404": _refusal(InteractionNotFound),
        "429": _refusal(Overloaded, "Retry-After"),
        "500": _refusal(Internal),
        "503": _refusal(Unavailable),
    }


def _refusals_of_the_connection() -> Schema:
    """Give the errors of what isn't a request: they come before it is known what was asked."""
    return {
        "400": _refusal(InvalidField),
        "408": _refusal(HeadersTooSlow),
        "431": _refusal(HeadersTooLarge),
    }


def _refusal(error: type[ServiceError], *headers: str) -> Schema:
    phrase = HTTPStatus(error.http_status).phrase
    return _answer(f"{phrase}: code {error.contract_code}.", _ref("Error"), *headers)


def _answer(description: str, schema: Schema | None = None, *headers: str) -> Schema:
    names = ("Twilio-Request-Id", "Twilio-Request-Duration", "X-Request-Id", *headers)
    answer: Schema = {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
    }
    return answer | (
        {} if schema is None else {"content": {"application/json": {"schema": schema}}}
    )


def _headers() -> dict[str, Schema]:
    headers: dict[str, tuple[Schema, str]] = {
        "Twilio-Request-Id": ({"pattern": "^RQ[0-9a-f]{32}$"}, "The request's id."),
        "Twilio-Request-Duration": ({"pattern": r"^\d+\.\d{3}$"}, "Seconds."),
        "X-Request-Id": ({}, "The id that the caller gave the request, or else the same."),
        "WWW-Authenticate": ({}, "That it takes Basic credentials."),
        "Retry-After": ({"pattern": r"^\d+$"}, "Seconds."),
    }
    return {
        name: {"required": True, "schema": {"type": "string", **schema}, "description": text}
        for name, (schema, text) in headers.items()
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema]) -> Schema:
    """Describe an object that has all of these properties, and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _text_or_null(schema: Schema, description: str) -> Schema:
    return {"type": ["string", "null"], "description": description, **schema}
