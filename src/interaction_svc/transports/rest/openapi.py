"""The OpenAPI document of the REST API, generated from tables that the service itself uses.

It is OpenAPI 3.0, like the vendor's document, because many client generators can't read 3.1.
"""

import re
from http import HTTPStatus
from typing import Any

from interaction_svc import __version__
from interaction_svc.app import page_tokens
from interaction_svc.app.consistency import CONSISTENCY_HEADER, MAX_TOKEN_LENGTH
from interaction_svc.codec.twilio_json import MAX_PAGE, STATUSES, TYPES
from interaction_svc.codec.twilio_query import ACCOUNT
from interaction_svc.domain.errors import (
    AmbiguousAccount,
    HeadersTooLarge,
    HeadersTooSlow,
    InteractionNotFound,
    Internal,
    InvalidField,
    Overloaded,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
)
from interaction_svc.domain.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from interaction_svc.domain.sids import Sid
from interaction_svc.transports.operations import GET, HEALTHZ, LIST, OPENAPI, READYZ, Operation
from interaction_svc.transports.rest.openapi_schemas import (
    Schema,
    envelope,
    error,
    interaction,
    object_of,
    ref,
)
from interaction_svc.transports.status import codes_of

_CONSISTENCY = CONSISTENCY_HEADER.title()
_TOKEN: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_-]+$",
    "maxLength": MAX_TOKEN_LENGTH,
}

_ACCOUNT: tuple[Schema, str] = (
    {"type": "string", "pattern": Sid.ACCOUNT.pattern},
    "For a key of the role admin: the account whose Interactions to use. Default: all accounts.",
)


def _path_of(operation: Operation) -> str:
    """Return a path with the vendor's parameter names: `{service_sid}` becomes `{ServiceSid}`."""
    assert operation.route is not None  # noqa: S101 it is served over HTTP
    path = operation.route.path
    return re.sub(r"{(\w+)}", lambda name: f"{{{name[1].title().replace('_', '')}}}", path)


def openapi_document(base_url: str) -> dict[str, Any]:
    """Return the document for a base URL, which has no slash at its end."""
    api = _common_responses()
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Interactions",
            "description": "The log of Twilio Proxy Interactions, in the vendor's shape.",
            "version": __version__,
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "servers": [{"url": base_url}],
        "security": [{"basic": []}, {"bearer": []}],
        "tags": [
            {"name": "Interactions", "description": "The Interactions of a Session."},
            {"name": "Service", "description": "The service itself, without credentials."},
        ],
        "paths": {
            _path_of(LIST): {
                "parameters": _path("ServiceSid", "SessionSid"),
                **_readable(_list_operation(api)),
            },
            _path_of(GET): {
                "parameters": _path("ServiceSid", "SessionSid", "Sid"),
                **_readable(_fetch_operation(api)),
                "delete": _delete_operation(api),
            },
            _path_of(HEALTHZ): _watched("GetHealth", "Whether the process is alive"),
            _path_of(READYZ): _watched(
                "GetReadiness", "Whether the service can do its work", is_refusable=True
            ),
            _path_of(OPENAPI): _watched("GetDescription", "This document", {"type": "object"}),
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
                "Interaction": interaction(),
                "InteractionList": envelope(),
                "Error": error(),
                "Status": object_of({"status": {"type": "string", "enum": ["ok", "unavailable"]}}),
            },
            "headers": _headers(),
        },
    }


def _list_operation(api: Schema) -> Schema:
    operation = _operation("ListInteractions", "List a Session's Interactions, by pages", api)
    page = _answer("A page of Interactions.", ref("InteractionList"))
    parameters = [*_query(), _consistency()]
    return operation | {"parameters": parameters, "responses": {"200": page, **api}}


def _fetch_operation(api: Schema) -> Schema:
    operation = _operation("FetchInteraction", "Fetch an Interaction", api)
    fetched = _answer("The Interaction.", ref("Interaction"))
    parameters = [_parameter(ACCOUNT, *_ACCOUNT), _consistency()]
    return operation | {"parameters": parameters, "responses": {"200": fetched, **_of_one(api)}}


def _delete_operation(api: Schema) -> Schema:
    operation = _operation("DeleteInteraction", "Delete an Interaction for good", api)
    deleted = _answer("The Interaction is deleted.", None, _CONSISTENCY)
    parameters = [_parameter(ACCOUNT, *_ACCOUNT)]
    return operation | {"parameters": parameters, "responses": {"204": deleted, **_of_one(api)}}


def _of_one(api: Schema) -> Schema:
    """Return the errors of an operation on one Interaction. Several accounts may have its SID."""
    return api | {"409": _refusal(AmbiguousAccount)}


def _readable(get: Schema) -> Schema:
    """Return the operations GET and HEAD. The responses of HEAD have no content."""
    head = get | {
        "operationId": f"{get['operationId']}Head",
        "summary": f"{get['summary']}: the headers alone",
        "responses": {
            status: {name: value for name, value in answer.items() if name != "content"}
            for status, answer in get["responses"].items()
        },
    }
    return {"get": get, "head": head}


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
    """Return the operations of a path about the service itself."""
    status = ref("Status")
    responses = {"200": _answer("OK.", schema or status)} | _refusals_of_the_connection()
    if is_refusable:
        responses["503"] = _answer("The service is unavailable.", status)
    operation = _operation(name, summary, responses)
    return _readable(operation | {"tags": ["Service"], "security": []})


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
            f"The number of Interactions in a page. Above {MAX_PAGE_SIZE} it is {MAX_PAGE_SIZE}.",
        ),
        "Page": (
            {"type": "integer", "minimum": 0, "maximum": MAX_PAGE, "default": 0},
            "The number of the page, for the caller's count only. Above 0 it needs a PageToken.",
        ),
        "PageToken": (
            text | {"pattern": "^[A-Za-z0-9_-]*$", "maxLength": page_tokens.MAX_TOKEN_LENGTH},
            "The start of the page, from a link of an earlier page.",
        ),
        ACCOUNT: _ACCOUNT,
        "Order": (text | {"enum": ["asc", "desc"]}, "Oldest first, or newest first."),
        "Type": (text | {"enum": list(TYPES.values())}, "Interactions of this type only."),
        "DateCreatedAtOrAfter": (
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
    return [_parameter(name, *described) for name, described in parameters.items()]


def _parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _consistency() -> Schema:
    return {
        "name": _CONSISTENCY,
        "in": "header",
        "schema": _TOKEN,
        "description": "The token from the response of a write. The read sees that write.",
    }


def _common_responses() -> Schema:
    """Return the errors of every operation on Interactions."""
    return _refusals_of_the_connection() | {
        "401": _refusal(Unauthenticated, "WWW-Authenticate"),
        "403": _refusal(PermissionDenied),
        "404": _refusal(InteractionNotFound),
        "429": _refusal(Overloaded, "Retry-After"),
        "500": _refusal(Internal),
        "503": _refusal(Unavailable),
    }


def _refusals_of_the_connection() -> Schema:
    """Return the errors of a malformed request, which are sent before it is routed."""
    return {
        "400": _refusal(InvalidField),
        "408": _refusal(HeadersTooSlow),
        "431": _refusal(HeadersTooLarge),
    }


def _refusal(error: type[ServiceError], *headers: str) -> Schema:
    codes = codes_of(error)
    phrase = HTTPStatus(codes.http).phrase
    return _answer(f"{phrase}: code {codes.vendor}.", ref("Error"), *headers)


def _answer(description: str, schema: Schema | None = None, *headers: str) -> Schema:
    names = (
        "Twilio-Request-Id", "Twilio-Request-Duration", "X-Request-Id", "Cache-Control", *headers,
    )  # fmt: skip
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
        "X-Request-Id": ({}, "The id that the caller sent, or else the Twilio-Request-Id."),
        "Cache-Control": ({"enum": ["no-store"]}, "No cache may store the response."),
        "WWW-Authenticate": ({}, "Basic credentials are accepted."),
        "Retry-After": ({"pattern": r"^\d+$"}, "Seconds."),
    }
    always: dict[str, Schema] = {
        name: {"required": True, "schema": {"type": "string", **schema}, "description": text}
        for name, (schema, text) in headers.items()
    }
    text = "With a replica: a token. A read that sends it sees this write."
    return always | {_CONSISTENCY: {"required": False, "schema": _TOKEN, "description": text}}
