"""Logs: one line an event on standard error, JSON, or readable where that is a terminal.

No line holds `data`, a secret or an authorization header. Of exceptions their kinds and places are
written, and the texts of those only whose texts are the program's own or the system's: others may
quote what they stumbled over.
"""

import logging
import sqlite3
import sys
import traceback
from contextlib import suppress
from typing import Any

import structlog

from interaction_svc.calls import current_call
from interaction_svc.store import StoreError

_OUTSPOKEN = (StoreError, OSError, sqlite3.Error)
_UNFILTERED = structlog.make_filtering_bound_logger(0)


def configure_logs(level: str = "info") -> None:
    """Set up logging for the process; what libraries log takes the same way."""
    readable = sys.stderr.isatty()
    about: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
        _describe_exception,
    ]
    rendering: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*about, rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Unfailing(sys.stderr),
        cache_logger_on_first_use=False,  # the level is known only when the settings are
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=about,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, rendering],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # Of errors that a client makes by going away while it is answered.
    logging.getLogger("grpc._cython.cygrpc").addFilter(
        lambda record: not str(record.msg).startswith("ExecuteBatchError raised in core")
    )


class _Unfailing(structlog.PrintLogger):
    """Prints, or doesn't: a full disk or a closed pipe under the log is no reason to fail calls."""

    def msg(self, message: str) -> None:
        """Print a line."""
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def audit(action: str, **about: Any) -> None:
    """Log what was done or refused, and by whom: what an auditor reads, at any level."""
    call = current_call()
    if call is not None:
        about = {
            "key_sid": call.caller.key_sid,
            "account_sid": call.caller.account_sid,
            "peer": call.peer,
            "method": call.method,
            **about,
        }
    log = structlog.wrap_logger(_Unfailing(sys.stderr), wrapper_class=_UNFILTERED)
    log.info("audit", action=action, **about)


def _add_request_id(_: Any, __: str, event: structlog.typing.EventDict) -> Any:
    call = current_call()
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
    """Give the chain of exceptions, the last first: what and where."""
    lines: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(lines) < 100:
        name = f"{type(seen).__module__}.{type(seen).__qualname__}"
        lines.append(f"{name}: {seen}" if isinstance(seen, _OUTSPOKEN) else name)
        lines += [
            f"  {frame.filename}:{frame.lineno} in {frame.name}"
            for frame in traceback.extract_tb(seen.__traceback__, limit=-20)
        ]
        seen = seen.__cause__ or seen.__context__
    return lines
