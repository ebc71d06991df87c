"""Messages between the supervisor and a worker, a line of JSON in each direction.

The supervisor writes the settings to the worker's standard input and keeps it open: a worker whose
standard input ends knows that the supervisor has ended. The worker writes its startup report to
standard output once. SIGTERM tells it to stop.
"""

import json
from typing import NamedTuple

from interaction_svc.runtime.settings import CLIENT_SETTINGS, Settings, SettingsError
from interaction_svc.store import StoreError

_REASONS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (SettingsError, StoreError, OSError)
}
FAILURES = tuple(_REASONS.values())
"""Errors that keep a server from starting; the command prints their text."""


class StartupReport(NamedTuple):
    """The result of starting a worker: it is ready if there is no `failure`."""

    failure: Exception | None = None

    @classmethod
    def read(cls, line: bytes) -> "StartupReport":
        """Return the report in a worker's line. An empty line means that the worker has ended."""
        if not line:
            return cls(OSError("a worker has ended before it was ready"))
        try:
            told = json.loads(line)
            return cls(_REASONS[told["reason"]](told["text"]) if told else None)
        except (LookupError, TypeError, ValueError):
            return cls(OSError("a worker has written something else than its report"))

    def line(self) -> bytes:
        """Return the line that `read` reads."""
        if self.failure is None:
            return b"{}\n"
        reason = next(name for name, kind in _REASONS.items() if isinstance(self.failure, kind))
        return json.dumps({"reason": reason, "text": str(self.failure)}).encode() + b"\n"


def settings_line(settings: Settings) -> bytes:
    """Write what a server needs of the settings, which has no secrets, as a line."""
    return settings.model_dump_json(exclude=set(CLIENT_SETTINGS)).encode() + b"\n"


def read_settings(line: bytes) -> Settings:
    """Read the settings from that line."""
    return Settings(**json.loads(line))
