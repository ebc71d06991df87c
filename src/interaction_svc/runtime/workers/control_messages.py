"""The messages between the supervisor and a worker: one line of JSON in each direction.

The group writes the settings to the worker's standard input, and leaves that open: its end is the
end of the group. The worker writes to its standard output once, that it is ready or why it can't
be. It is told to stop by SIGTERM.
"""

import json
from typing import NamedTuple

from interaction_svc.runtime.settings import CLIENT_SETTINGS, Settings, SettingsError
from interaction_svc.store import StoreError

_REASONS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (SettingsError, StoreError, OSError)
}
FAILURES = tuple(_REASONS.values())
"""The errors of a failed start, which the command prints in one line."""


class StartupReport(NamedTuple):
    """The result of a worker's start: it is ready if there is no `failure`."""

    failure: Exception | None = None

    @classmethod
    def read(cls, line: bytes) -> "StartupReport":
        """Read a worker's line; the empty one is of a worker that has ended without any."""
        if not line:
            return cls(OSError("a worker has ended before it was ready"))
        try:
            told = json.loads(line)
            return cls(_REASONS[told["reason"]](told["text"]) if told else None)
        except (LookupError, TypeError, ValueError):
            return cls(OSError("a worker has written something else than its report"))

    def line(self) -> bytes:
        """Write it as the line that `read` reads."""
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
