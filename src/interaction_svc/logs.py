"""Logs: one line an event on standard error, JSON, or readable where that is a terminal."""

import logging
import sys

import structlog


def configure_logs() -> None:
    """Set up logging for the process."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    readable = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if readable else [structlog.processors.format_exc_info]),
            # Not the default traceback, which shows local variables: message bodies among them.
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if readable
            else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
