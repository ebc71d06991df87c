"""Log lines of libraries, through Python's logging, as lines of our own log.

grpc and asyncio put bytes of requests into their messages, such as metadata that is not UTF-8, with
an API key. Of their messages only known texts without such bytes are logged; of others the class of
the exception. Further lines than `LINES_A_SECOND` are counted and not written.
"""

import logging
import sys
import threading
import time
from types import SimpleNamespace, TracebackType
from typing import Any

import structlog

LINES_A_SECOND = 10
"""The most lines of libraries that are written in a second."""
UNKNOWN = "a library has logged a message that is not shown"

_CLIENTS_FAULTS = ("ExecuteBatchError raised in core", "Invalid encoding on ")
"""Prefixes of messages that are not logged, because a client caused them.

The first is about a client that disconnects early. The second is about metadata that is not UTF-8.
"""
_QUOTING = ("grpc", "asyncio", "root", "concurrent.futures")
"""The loggers whose messages may have bytes of a request. grpc uses the root logger too."""
_KNOWN = (
    # of grpc
    "Abort error unexpectedly suppressed",
    "Aborting method",
    "Error in callback for method",
    "Exception not handled by _handle_exceptions in servicer method",
    "Exception serializing message",
    "Exception deserializing message",
    "Failed sending error status from server",
    "Unexpected",
    # of asyncio
    "Exception in callback",
    "Future exception was never retrieved",
    "Task exception was never retrieved",
    "Task was destroyed but it is pending",
    "Unclosed",
    "socket.accept() out of system resource",
)
"""Beginnings of messages. Only this part is logged."""


class LibraryHandler(logging.Handler):
    """Logs the records of libraries."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._count = 0
        self._suppressed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record. logging calls this for one record at a time."""
        template = record.msg if isinstance(record.msg, str) else ""
        if template.startswith(_CLIENTS_FAULTS):
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count > LINES_A_SECOND:
            self._suppressed += 1
            return
        about: dict[str, Any] = {"logger": record.name}
        if self._suppressed:
            about["suppressed"], self._suppressed = self._suppressed, 0
        error = record.msg if isinstance(record.msg, BaseException) else _error_of(record.exc_info)
        if error is not None:
            about["exc_info"] = error
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        structlog.get_logger().log(level, _text_of(record, template), **about)


def log_stray_errors() -> None:
    """Log errors that Python would print to standard error with their texts.

    These are errors in threads, and those that can't be raised: in callbacks of C code and in
    finalizers. Their texts may have bytes of a request.
    """
    log = structlog.get_logger()

    def in_a_thread(given: Any) -> None:
        log.error("a thread has ended unexpectedly", exc_info=given.exc_value)

    def that_can_not_be_raised(given: Any) -> None:
        log.error("an error could not be raised", exc_info=given.exc_value)

    threading.excepthook = in_a_thread
    sys.unraisablehook = that_can_not_be_raised
    logging.captureWarnings(True)


def silenced(traceback: Any) -> SimpleNamespace:
    """Return the traceback module without its function that prints the text of an exception."""
    return SimpleNamespace(**{**vars(traceback), "print_exc": lambda *_, **__: None})


def _error_of(given: Any) -> BaseException | None:
    info: tuple[type, BaseException, TracebackType] | None = given
    return info[1] if info else None


def _text_of(record: logging.LogRecord, template: str) -> str:
    if record.name.partition(".")[0] not in _QUOTING:
        try:
            return record.getMessage()
        except Exception:  # its arguments do not fit; logging would print them to standard error
            return UNKNOWN
    return next((known for known in _KNOWN if template.startswith(known)), UNKNOWN)
