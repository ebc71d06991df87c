"""The undocumented parts of uvicorn are as the HTTP engine expects.

If a test here fails after an update of uvicorn, compare uvicorn/server.py and
uvicorn/protocols/http/httptools_impl.py of both versions. Then adapt http1/uvicorn_internals.py and
the classes that use it, http1/protocol.py and http1/request_cycle.py. Run tests/transports/http1
and tests/system/test_hostile_connections.py. Until they pass keep the older version.
"""

import ast
import asyncio
import inspect
import re
from typing import Any

import pytest
import uvicorn
from testing.paths import ROOT
from uvicorn.protocols.http import flow_control
from uvicorn.server import ServerState

from interaction_svc.transports.http1 import uvicorn_internals
from interaction_svc.transports.http1.listener import LimitedListener
from interaction_svc.transports.http1.protocol import RestProtocol
from interaction_svc.transports.http1.request_cycle import RequestCycle
from interaction_svc.transports.http1.uvicorn_internals import UvicornProtocol, UvicornServer

ADVICE = f"uvicorn {uvicorn.__version__} has changed: see the docstring of {__name__}"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """An application that is not called."""


def missing(names: frozenset[str], found: object) -> set[str]:
    return {name for name in names if not hasattr(found, name)}


def test_one_module_imports_uvicorn() -> None:
    importers = {
        path.name
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(name.name == "uvicorn" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uvicorn"))
    }
    assert importers == {"uvicorn_internals.py"}


async def test_the_protocol_has_the_used_attributes_and_methods() -> None:
    protocol = UvicornProtocol(uvicorn.Config(app), ServerState(), {})
    names = uvicorn_internals.PROTOCOL_ATTRIBUTES | uvicorn_internals.PROTOCOL_METHODS
    assert not missing(names, protocol), ADVICE
    assert not missing(uvicorn_internals.SERVER_STATE_ATTRIBUTES, ServerState()), ADVICE
    flow = flow_control.FlowControl(asyncio.Transport())
    assert not missing(uvicorn_internals.FLOW_ATTRIBUTES, flow), ADVICE


def test_the_protocol_has_only_known_parser_callbacks() -> None:
    callbacks = {name for name in vars(UvicornProtocol) if name.startswith("on_")}
    known = {name for name in uvicorn_internals.PROTOCOL_METHODS if name.startswith("on_")}
    assert callbacks == known | {"on_response_complete"}, ADVICE


def test_inherited_methods_use_only_attributes_of_our_cycle() -> None:
    inherited = [
        method
        for name, method in inspect.getmembers(UvicornProtocol, inspect.isfunction)
        if getattr(RestProtocol, name) is method
    ]
    called_by_ours = [UvicornProtocol.connection_made, UvicornProtocol.connection_lost]
    used = {
        name
        for method in (*inherited, *called_by_ours)
        for name in re.findall(r"self\.cycle\.(\w+)", inspect.getsource(method))
    }
    assert used == uvicorn_internals.CYCLE_ATTRIBUTES, ADVICE
    assert not missing(uvicorn_internals.CYCLE_ATTRIBUTES, RequestCycle), ADVICE


def test_the_server_has_the_used_attributes() -> None:
    config = uvicorn.Config(app)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)  # as `serve` sets it
    assert not missing(uvicorn_internals.SERVER_ATTRIBUTES, server), ADVICE
    for name in ("startup", "capture_signals"):
        theirs, ours = (getattr(kind, name) for kind in (uvicorn.Server, UvicornServer))
        assert [*inspect.signature(theirs).parameters] == [*inspect.signature(ours).parameters], (
            ADVICE
        )
    assert "for server in self.servers" in inspect.getsource(uvicorn.Server.shutdown), ADVICE
    called = set(re.findall(r"\bserver\.(\w+)\(", inspect.getsource(uvicorn.Server)))
    assert not missing(frozenset(called), LimitedListener), ADVICE
    assert "config.timeout_graceful_shutdown" in inspect.getsource(uvicorn.Server.shutdown), ADVICE


@pytest.mark.parametrize("status", [200, 204, 404, 431])
def test_status_lines_are_bytes_with_a_line_end(status: int) -> None:
    line = uvicorn_internals.STATUS_LINE[status]
    assert re.fullmatch(rb"HTTP/1\.1 %d [ \w]+\r\n" % status, line), ADVICE
