"""The shares of a read's time, from a sampling profiler on a server under load.

py-spy samples the stacks of the event loop's and the store's threads 500 times a second. A sample
is attributed to the innermost module on its stack that belongs to the service or the transport.
The threads of grpc's core and of h2corn are not included.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from testing.process import Served
from testing.requests import get_request, list_request

from bench import http_load, load, reading
from bench.processes import GRPCIO, H2CORN
from bench.reading import AT_ONCE, GET, case_of

_SAMPLES_PER_SECOND = 500
_FRAME = re.compile(
    r"\((?:(?:asyncio|uvicorn|h2corn|starlette|grpc)/[^)]*|interaction_svc/([^:)]+?)(?:\.py)?(?::\d+)?)\)"
)
"""A stack frame of the service or the transport; the group is empty for the transport."""
_PARTS = {
    "": "transport: grpc.aio or uvicorn, event loop, sockets",
    "transports/grpcio/interceptors/telemetry": "telemetry: request context, log line, metrics",
    "transports/asgi": "ASGI middleware: ids, errors, limits, authentication",
    "telemetry/request_scope": "telemetry: request context, log line, metrics",
    "telemetry/request_context": "telemetry: request context, log line, metrics",
    "telemetry/metric_buffer": "telemetry: request context, log line, metrics",
    "telemetry/logs": "telemetry: request context, log line, metrics",
    "transports/grpcio/interceptors": "pipeline: limits, deadline, authentication, errors",
    "transports/pipeline": "pipeline: limits, deadline, authentication, errors",
    "app/credentials": "pipeline: limits, deadline, authentication, errors",
    "app/authentication": "pipeline: limits, deadline, authentication, errors",
    "admission/concurrency": "pipeline: limits, deadline, authentication, errors",
    "admission/share": "pipeline: limits, deadline, authentication, errors",
    "admission/wait_queue": "pipeline: limits, deadline, authentication, errors",
    "admission/deadline": "pipeline: limits, deadline, authentication, errors",
    "admission/response_backlog": "pipeline: limits, deadline, authentication, errors",
    "domain/principals": "pipeline: limits, deadline, authentication, errors",
    "app/ingest": "request: parsing, validation, page tokens",
    "transports/rpc": "request: parsing, validation, page tokens",
    "app/interactions": "request: parsing, validation, page tokens",
    "domain/validation": "request: parsing, validation, page tokens",
    "app/opaque_token": "request: parsing, validation, page tokens",
    "app/page_tokens": "request: parsing, validation, page tokens",
    "app/store_calls": "request: parsing, validation, page tokens",
    "transports/rest/resources": "JSON of rows and envelope",
    "codec/twilio_query": "request: parsing, validation, page tokens",
    "transports/connect": "RPC over ASGI: protocol, body, calls of h2corn",
    "transports/http1": "HTTP protocol",
    "transports/rest/responses": "HTTP protocol",
    "store": "store: SQLite",
    "store/rows": "JSON of rows and envelope",
    "transports/asgi/json_cache": "JSON of rows and envelope",
    "codec/twilio_json": "JSON of rows and envelope",
}
"""Parts by module or folder; the longest match applies."""
OTHER = "other"
_BEGINNINGS = ("(asyncio/runners.py", "_work_through")
"""The frames at which the work of the event loop's and the store's threads begins."""


def parts(seconds: float) -> list[tuple[str, ...]] | None:
    """Return a table of percentages, a column for each case; None if py-spy lacks permission."""
    columns = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stored = stack.enter_context(reading.serve_rows(folder))
        on_h2corn = stack.enter_context(reading.serve_same(stored.server, folder, H2CORN))
        for name, pid, put_load in _loads(stored, on_h2corn, seconds):
            found = _profiled(pid, folder / "samples", seconds, put_load)
            if found is None:
                return None
            columns.append((name, found))
    names = sorted({part for _, found in columns for part in found}, key=_order)
    rows = [("", *(name for name, _ in columns))]
    for part in names:
        shares = (found[part] / found.total() * 100 for _, found in columns)
        rows.append((part, *(f"{share:.0f} %" for share in shares)))
    return rows


def _order(part: str) -> int:
    return [*_PARTS.values(), OTHER].index(part)


def _loads(
    stored: reading.Stored, on_h2corn: Served, seconds: float
) -> list[tuple[str, int, Callable[[], object]]]:
    """Return the name of each case, the process ID of its server, and a function that loads it."""
    metadata = (("authorization", stored.key.bearer),)
    http_address = stored.server.base_url.removeprefix("http://")
    header = reading.header_of(stored.key.basic)
    wanted: dict[str, tuple[list[Any], list[str]]] = {
        GET: (
            [get_request(read) for read in stored.read],
            [f"{stored.parents.path}/{read.sid}" for read in stored.read],
        ),
        **{
            case_of(size): (
                [list_request(stored.parents, page_size=size)],
                [f"{stored.parents.path}?PageSize={size}"],
            )
            for size in (50, 1000)
        },
    }
    loads: list[tuple[str, int, Callable[[], object]]] = []
    for engine, server in ((GRPCIO, stored.server), (H2CORN, on_h2corn)):
        address, pid = server.grpc_address, server.process.pid
        for case, (messages, _) in wanted.items():
            requests = tuple(
                reading.grpc_request(address, message, metadata) for message in messages
            )
            of_grpc = load.Load(address, requests, seconds, 4, at_once=AT_ONCE)
            loads.append((f"{engine} {case}", pid, partial(load.run, of_grpc)))
    pid = stored.server.process.pid
    for case, (_, paths) in wanted.items():
        gets = tuple(
            http_load.HttpRequest(
                http_load.get(path, header), len(reading.rest_body(http_address, path, header))
            )
            for path in paths
        )
        of_http = http_load.HttpLoad(http_address, gets, seconds, AT_ONCE)
        loads.append((f"REST {case}", pid, partial(http_load.run, of_http)))
    return loads


def _profiled(
    pid: int, file: Path, seconds: float, put_load: Callable[[], object]
) -> Counter[str] | None:
    command = [
        str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw",
        "--rate", str(_SAMPLES_PER_SECOND), "--duration", str(max(1, round(seconds))),
        "--pid", str(pid), "--output", str(file),
    ]  # fmt: skip
    with subprocess.Popen(  # noqa: S603 our own command
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as profiler:
        put_load()
    if profiler.returncode:
        return None
    found: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if "(selectors.py" in stack:  # the thread is idle
            continue
        beginning = next((mark for mark in _BEGINNINGS if mark in stack), None)
        if beginning is not None:
            found[_part_of(stack.partition(beginning)[2])] += int(count)
    return found


def _part_of(stack: str) -> str:
    modules = _FRAME.findall(stack)
    module = modules[-1] if modules else ""
    while module and module not in _PARTS:
        module = module.rpartition("/")[0]
        if not module:
            return OTHER
    return _PARTS[module]
