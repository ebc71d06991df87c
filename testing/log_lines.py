"""Reading of the log lines of a server."""

import json
from typing import Any

from testing.process import Served


def logged(server: Served, event: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the lines of this event that have these fields."""
    # The running server may not have written the last line completely.
    whole, _, _ = server.log.read_text().rpartition("\n")
    lines = [json.loads(line) for line in whole.splitlines()]
    return [
        line
        for line in lines
        if line["event"] == event and all(line.get(name) == fields[name] for name in fields)
    ]
