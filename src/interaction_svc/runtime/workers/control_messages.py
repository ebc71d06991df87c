"""Messages between the supervisor and a worker: one line of JSON in each direction.

The supervisor writes the settings to the worker's standard input and keeps it open. The end of
standard input means that the supervisor has ended. The worker writes one startup report to
standard output. It stops at SIGTERM.
"""

import json
from typing import NamedTuple

from interaction_svc.runtime.settings import CLIENT_SETTINGS, Settings, SettingsError
from interaction_svc.store import StoreError

_REASONS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (SettingsError, StoreError, OSError)
}
FAILURES = tuple(_REASONS.values())
"""Errors that a worker reports if it can't start; the command prints their texts."""


class StartupReport(NamedTuple):
    """The result of starting a worker: ready if `failure` is None."""

    failure: Exception | None = None

    @classmethod
    def read(cls, line: bytes) -> "StartupReport":
        """Return the report in a worker's line; `b""` means that the worker has ended."""
        if not line:
            return cls(OSError("a worker has ended before it was ready"))
        try:
            told = json.loads(line)
            return cls(_REASONS[told["reason"]](told["text"]) if told else None)
        except (LookupError, TypeError, ValueError):
            return cls(OSError("a worker has written something else than its report"))

    def line(self) -> bytes:
        """Return the report as a line for `read`."""
        if self.failure is None:
            return b"{}\n"
        reason = next(name for name, kind in _REASONS.items() if isinstance(self.failure, kind))
        return json.dumps({"reason": reason, "text": str(self.failure)}).encode() + b"\n"


def settings_line(settings: Settings) -> bytes:
    """Return the server's settings, which have no secrets, as a line for `read_settings`."""
    return settings.model_dump_json(exclude=set(CLIENT_SETTINGS)).encode() + b"\n"


def read_settings(line: bytes) -> Settings:
    """Return the settings in a line of `settings_line`."""
    return Settings(**json.loads(line))
