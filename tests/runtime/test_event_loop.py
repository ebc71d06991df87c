"""A server and each worker run on uvloop, or on asyncio's loop if uvloop is not installed."""

import os
from pathlib import Path

import pytest
from testing.event_loops import LOOPS, on_loop
from testing.log_lines import logged
from testing.process import served

_SITE = """
import asyncio, os
from pathlib import Path
from interaction_svc.runtime import process_tuning

def noted(apply=process_tuning.apply):
    name = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    Path(__file__).with_name(f"{os.getpid()}.loop").write_text(name)
    apply()

process_tuning.apply = noted
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("loop", LOOPS)
def test_each_serving_process_runs_on_the_loop_that_is_logged(
    tmp_path: Path, loop: str, workers: int
) -> None:
    env = on_loop(loop, tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE)
    paths = env.get("PYTHONPATH", os.environ.get("PYTHONPATH"))
    env["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [paths])])
    with served(tmp_path, "--workers", str(workers), env=env) as server:
        (line,) = logged(server, "settings")
    assert line["event_loop"] == loop
    assert [path.read_text() for path in site.glob("*.loop")] == [loop] * workers
