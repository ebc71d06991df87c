"""The shares of a read's time, by a sampling profiler on a server under load.

py-spy looks a few hundred times a second what the threads of the event loop and of the store are
at; a sample counts for the innermost module on its stack that is ours or the transport's. What
grpc's core does on threads of its own is not seen.
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

from testing import http2
from testing.requests import get_request, list_request

from bench import http_load, load, reading
from bench.reading import AT_ONCE, GET, case_of

_SAMPLES_PER_SECOND = 500
_FRAME = re.compile(
    r"\((?:(?:asyncio|uvicorn|starlette|grpc)/[^)]*|interaction_svc/([^:)]+?)(?:\.py)?(?::\d+)?)\)"
)
"""Of a module that counts; the transport's have no name."""
_PARTS = {
    "": "the transport: grpc.aio or uvicorn, asyncio, sockets",
    "transports/grpcio/interceptors/telemetry": "the call: ids, peer, its line and metrics",
    "transports/asgi": "middleware: ids, errors, limits, authentication",
    "telemetry/request_scope": "the call: ids, peer, its line and metrics",
    "telemetry/request_context": "the call: ids, peer, its line and metrics",
    "telemetry/metric_buffer": "the call: ids, peer, its line and metrics",
    "telemetry/logs": "the call: ids, peer, its line and metrics",
    "transports/grpcio/interceptors": "limits, deadline, authentication, errors",
    "transports/pipeline": "limits, deadline, authentication, errors",
    "app/credentials": "limits, deadline, authentication, errors",
    "app/authentication": "limits, deadline, authentication, errors",
    "admission/concurrency": "limits, deadline, authentication, errors",
    "admission/deadline": "limits, deadline, authentication, errors",
    "domain/principals": "limits, deadline, authentication, errors",
    "app/ingest": "the request: parsing, checking, page tokens",
    "transports/rpc": "the request: parsing, checking, page tokens",
    "app/interactions": "the request: parsing, checking, page tokens",
    "domain/validation": "the request: parsing, checking, page tokens",
    "app/opaque_token": "the request: parsing, checking, page tokens",
    "app/page_tokens": "the request: parsing, checking, page tokens",
    "app/store_calls": "the request: parsing, checking, page tokens",
    "transports/rest/resources": "JSON of rows, and the envelope",
    "codec/twilio_query": "the request: parsing, checking, page tokens",
    "transports/http1": "the HTTP protocol: bounds, exchange",
    "transports/rest/responses": "the HTTP protocol: bounds, exchange",
    "store": "the store: SQLite",
    "store/rows": "JSON of rows, and the envelope",
    "transports/rest/json_cache": "JSON of rows, and the envelope",
    "codec/twilio_json": "JSON of rows, and the envelope",
}
"""By module, or by the folder of one; the longest that fits."""
OTHER = "the rest"
_BEGINNINGS = ("run_forever", "_work_through")
"""The functions at which the work of the event loop's and the store's threads begins."""


def parts(seconds: float) -> list[tuple[str, ...]] | None:
    """Return a table of percentages, a column a case; None if py-spy may not read the process."""
    columns = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stored = stack.enter_context(reading.serve_rows(folder))
        for name, put_load in _loads(stored, seconds):
            found = _profiled(stored.server.process.pid, folder / "samples", seconds, put_load)
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


def _loads(stored: reading.Stored, seconds: float) -> list[tuple[str, Callable[[], object]]]:
    metadata = (("authorization", stored.key.bearer),)
    grpc_address = stored.server.grpc_address
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
    loads: list[tuple[str, Callable[[], object]]] = []
    for case, (messages, _) in wanted.items():
        requests = tuple(
            load.Request(
                http2.call_headers(reading.method_of(message), metadata),
                http2.message(message.SerializeToString()),
                len(reading.grpc_answer(grpc_address, message, metadata)),
            )
            for message in messages
        )
        of_grpc = load.Load(grpc_address, requests, seconds, 4, at_once=AT_ONCE)
        loads.append((f"gRPC {case}", partial(load.run, of_grpc)))
    for case, (_, paths) in wanted.items():
        gets = tuple(
            http_load.HttpRequest(
                http_load.get(path, header), len(reading.rest_body(http_address, path, header))
            )
            for path in paths
        )
        of_http = http_load.HttpLoad(http_address, gets, seconds, AT_ONCE)
        loads.append((f"REST {case}", partial(http_load.run, of_http)))
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
        if "(selectors.py" in stack:  # it waits there
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
