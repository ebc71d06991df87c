"""Routing of HTTP requests by the table of operations.

Routing is the first step, because all stages depend on the operation.
"""

import re
from collections.abc import Awaitable, Mapping
from typing import NamedTuple, NoReturn

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.domain.errors import MethodNotAllowed, UnknownPath
from interaction_svc.transports.operations import (
    API_PREFIX,
    HTTP,
    UNKNOWN_API_PATH,
    UNKNOWN_PATH,
    Operation,
)


class _Resource(NamedTuple):
    """The operations on one path, by HTTP method."""

    path: re.Pattern[str]
    operations: dict[str, tuple[Operation, ASGIApp]]


class Router:
    """Finds the operation and the endpoint of a request."""

    def __init__(self, endpoints: Mapping[Operation, ASGIApp]) -> None:
        """Route each operation of HTTP to its endpoint. Raises KeyError if one is missing."""
        resources: dict[str, _Resource] = {}
        for operation in HTTP:
            assert operation.route is not None  # noqa: S101 it is served over HTTP
            method, path, _ = operation.route
            resource = resources.setdefault(path, _Resource(_pattern(path), {}))
            found = operation, endpoints[operation]
            resource.operations[method] = found
            if method == "GET":
                resource.operations["HEAD"] = found
        self._resources = tuple(resources.values())

    def route(self, scope: Scope) -> Operation:
        """Return the operation of a request.

        Sets `operation`, `endpoint` and `path_params` of the scope. If no operation matches, the
        endpoint raises UnknownPath or MethodNotAllowed.
        """
        path, method = scope["path"], scope["method"]
        for pattern, operations in self._resources:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if method not in operations:
                return _set(scope, _unknown(path), _MethodRefused(operations))
            scope["path_params"] = match.groupdict()
            return _set(scope, *operations[method])
        return _set(scope, _unknown(path), _refuse_path)


def serve_endpoint(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Serve a routed request."""
    endpoint: ASGIApp = scope["endpoint"]
    return endpoint(scope, receive, send)


def _set(scope: Scope, operation: Operation, endpoint: ASGIApp) -> Operation:
    scope["operation"], scope["endpoint"] = operation, endpoint
    return operation


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))


def _unknown(path: str) -> Operation:
    return UNKNOWN_API_PATH if path.startswith(API_PREFIX) else UNKNOWN_PATH


async def _refuse_path(*_: object) -> NoReturn:
    raise UnknownPath("Not found")


class _MethodRefused:
    def __init__(self, allowed: Mapping[str, object]) -> None:
        self._allowed = sorted(allowed)

    async def __call__(self, scope: Scope, *_: object) -> NoReturn:
        raise MethodNotAllowed(
            f"Method {scope['method']} is not allowed on this resource", allowed=self._allowed
        )
