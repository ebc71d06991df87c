"""The event loops that a server can run on."""

import os
from pathlib import Path

from interaction_svc.runtime import event_loop

LOOPS = tuple(dict.fromkeys((event_loop.NAME, "asyncio")))
"""The loop of an installation, and the loop where uvloop is not installed."""


def on_loop(name: str, folder: Path) -> dict[str, str]:
    """Return the environment in which a server runs on this loop. It needs files in the folder."""
    if name == event_loop.NAME:
        return {}
    site = folder / "without-uvloop"
    site.mkdir()
    (site / "uvloop.py").write_text("raise ImportError\n")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
