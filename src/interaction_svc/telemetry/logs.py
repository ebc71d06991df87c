"""Logs to standard error: one line for each event, as JSON, or in colour on a terminal.

No line contains the field `data`, a secret or an authorization header. For an exception, the class
and the stack are logged. Its text is logged only if this program, SQLite or the operating system
wrote it, because other texts may quote a client's data.
"""

import asyncio
import atexit
import json
import logging
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
import structlog

from interaction_svc.domain.errors import OperatorError
from interaction_svc.domain.timestamps import text_of_seconds
from interaction_svc.telemetry.library_logs import LibraryHandler
from interaction_svc.telemetry.request_context import RequestContext, current_request_or_none

FLUSH_SECONDS = 0.02
"""The longest time that a request's log line is buffered. Other lines are written at once."""

_LOGGABLE_TEXTS = (OperatorError, OSError, sqlite3.Error)
_UNFILTERED = structlog.make_filtering_bound_logger(0)


class _EndedCall(NamedTuple):
    call: RequestContext
    seconds: float
    at: float
    """The time at which the call ended, in seconds since 1970."""


class _LogBuffer:
    """Ended requests whose lines are not written yet. A timer of one event loop flushes them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[_EndedCall] = []

    def add(self, ended: _EndedCall) -> None:
        """Buffer the line of a request. It is written within FLUSH_SECONDS, together with others.

        Formatting a line inside its request adds 20 % to the cost of a Get, because grpc has
        evicted the code from the CPU caches. Formatting lines together adds 5 %. In addition, each
        write releases the interpreter lock and waits for it.
        """
        self._waiting.append(ended)
        if len(self._waiting) == 1:
            self._loop.call_later(FLUSH_SECONDS, _output.flush)

    def take(self) -> list[str]:
        """Return the buffered lines, and empty the buffer."""
        ended, self._waiting = self._waiting, []
        return list(map(_line_of, ended))


class _Thread(threading.local):
    """The buffer of this thread, while its event loop runs a server."""

    buffer: _LogBuffer | None = None


_thread = _Thread()
_buffers: set[_LogBuffer] = set()
"""The buffers of all threads."""


class _Output:
    """Standard error. Buffered lines are written together, before any other line.

    If a write fails, for example on a full disk or a closed pipe, no request fails.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def write(self, *last: str) -> None:
        """Write the buffered lines, and then the given ones."""
        with self._lock:
            lines = [line for buffer in tuple(_buffers) for line in buffer.take()]
            lines += last
            if lines:
                with suppress(OSError, ValueError):
                    sys.stderr.write("\n".join([*lines, ""]))
                    sys.stderr.flush()

    def flush(self) -> None:
        """Write the buffered lines."""
        self.write()


_output = _Output()
atexit.register(_output.flush)


@contextmanager
def buffered_logs() -> Iterator[None]:
    """Context manager that buffers the log lines of requests on the running event loop.

    Outside the block each line is written at once.
    """
    if _thread.buffer is not None:  # another server on this event loop buffers already
        yield
        return
    buffer = _thread.buffer = _LogBuffer(asyncio.get_running_loop())
    _buffers.add(buffer)
    try:
        yield
    finally:
        _output.flush()
        _thread.buffer = None
        _buffers.remove(buffer)


class _Printer:
    """The logger that structlog writes its lines to."""

    def msg(self, message: str) -> None:
        """Print a line."""
        _output.write(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


_encode_in_ascii = json.JSONEncoder(default=repr, separators=(",", ":")).encode


def _encode(event: structlog.typing.EventDict) -> str:
    """Return a line in ASCII: other characters could be control sequences for a terminal."""
    try:
        line = orjson.dumps(event, default=repr)  # ten times as fast as json
    except TypeError:  # half of a surrogate pair, or a number beyond 64 bits
        return _encode_in_ascii(event)
    return line.decode() if line.isascii() else _encode_in_ascii(event)


_as_json = structlog.processors.JSONRenderer(lambda event, **_: _encode(event))
_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)


class _Form:
    """The level and the format of lines, as last configured."""

    level = logging.INFO
    render: structlog.typing.Processor = _as_json


def configure_logs(level: str = "info", *, worker: int | None = None) -> None:
    """Configure logging for the process, including the lines of libraries.

    With `worker`, each line has the worker's number, because several processes share the log.
    """
    _Form.render = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else _as_json
    if worker is not None:
        _Form.render = _naming(worker, _Form.render)
    _Form.level = logging.getLevelNamesMapping()[level.upper()]
    about: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        _stamp,
        _add_request_id,
        _describe_exception,
    ]
    structlog.configure(
        processors=[*about, _Form.render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Printer(),
        cache_logger_on_first_use=False,  # loggers may be in use already
    )
    logging.basicConfig(level=logging.WARNING, handlers=[LibraryHandler()], force=True)


def _naming(worker: int, render: structlog.typing.Processor) -> structlog.typing.Processor:
    """Return a renderer that adds the worker's number to every line."""
    return lambda logger, name, event: render(logger, name, {**event, "worker": worker})


def log_call(call: RequestContext, seconds: float) -> None:
    """Log the end of a call at level info, or at level debug if it is quiet."""
    if _Form.level <= (logging.DEBUG if call.is_quiet else logging.INFO):
        ended = _EndedCall(call, seconds, time.time())
        buffer = _thread.buffer
        if buffer is not None:
            buffer.add(ended)
        else:
            _output.write(_line_of(ended))


def _line_of(ended: _EndedCall) -> str:
    """Format the line of a call. structlog would take three times as long."""
    call, seconds, at = ended
    event: structlog.typing.EventDict = {
        "transport": call.transport,
        "method": call.method,
        "code": call.code,
        "ms": round(seconds * 1000, 3),
        "peer": call.peer,
        "key_sid": call.principal.key_sid,
        "account_sid": call.principal.account_sid,
        **call.about,
        "event": "call",
        "level": "debug" if call.is_quiet else "info",
        "timestamp": _timestamp(at),
        "request_id": call.request_id,
    }
    return str(_Form.render(None, "", event))


def _timestamp(at: float) -> str:
    """Return a time in structlog's format."""
    second = int(at)
    return f"{_to_the_second(second)}{int((at - second) * 1e6):06d}Z"


@lru_cache(maxsize=2)  # lines formatted together have at most two different seconds
def _to_the_second(second: int) -> str:
    return f"{text_of_seconds(second)[:-1]}."


def audit(action: str, **about: Any) -> None:
    """Log an audit line about an action or a refusal and its caller, whatever the log level."""
    call = current_request_or_none()
    if call is not None:
        about = {
            "key_sid": call.principal.key_sid,
            "account_sid": call.principal.account_sid,
            "peer": call.peer,
            "method": call.method,
            **about,
        }
    log = structlog.wrap_logger(_Printer(), wrapper_class=_UNFILTERED)
    log.info("audit", action=action, **about)


def _add_request_id(_: Any, __: str, event: structlog.typing.EventDict) -> Any:
    call = current_request_or_none()
    if call is not None:
        event.setdefault("request_id", call.request_id)
    return event


def _describe_exception(_: Any, __: str, event: structlog.typing.EventDict) -> Any:
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = _described(error)
    return event


def _described(error: BaseException) -> list[str]:
    """Return the classes and stacks of an exception and its causes, the most recent first."""
    lines: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(lines) < 100:
        name = f"{type(seen).__module__}.{type(seen).__qualname__}"
        lines.append(f"{name}: {seen}" if isinstance(seen, _LOGGABLE_TEXTS) else name)
        lines += [
            f"  {frame.filename}:{frame.lineno} in {frame.name}"
            for frame in traceback.extract_tb(seen.__traceback__, limit=-20)
        ]
        seen = seen.__cause__ or seen.__context__
    return lines
