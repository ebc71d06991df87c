"""Two servers in one process, one after the other, each on its own event loop."""

import json
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import asyncio, gc, json, sys, urllib.request
from prometheus_client import REGISTRY
from interaction_svc.runtime.server import Server
from interaction_svc.runtime.settings import load_settings
from interaction_svc.telemetry.logs import configure_logs

def counted():
    labels = {"transport": "http", "method": "readyz", "code": "200"}
    return REGISTRY.get_sample_value("interaction_svc_calls_total", labels) or 0

async def serve():
    settings = load_settings(
        store=f"sqlite:///{sys.argv[1]}/x.db", grpc_address="127.0.0.1:0",
        http_address="127.0.0.1:0", metrics=False, log_level="debug",
    )
    async with Server(settings) as server:
        url = server.http_address.url() + "/readyz"
        for _ in range(3):
            await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())
    return counted()

configure_logs("debug")
interval, frozen = sys.getswitchinterval(), gc.get_freeze_count()
counts = [asyncio.run(serve()) for _ in range(2)]
untouched = (sys.getswitchinterval(), gc.get_freeze_count()) == (interval, frozen)
print(json.dumps({"counts": counts, "untouched": untouched}))
"""


def test_both_of_two_servers_on_two_event_loops_log_and_count_their_requests(
    tmp_path: Path,
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    result = json.loads(ended.stdout)
    assert result["counts"] == [3, 6]
    lines = [json.loads(line) for line in ended.stderr.decode().splitlines()]
    assert sum(line.get("method") == "readyz" for line in lines) == 6
    assert result["untouched"]
