"""The serve command and the workers tune their process; nothing else does."""

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import asyncio, os, sys
from interaction_svc.runtime import process_tuning
from interaction_svc.runtime.settings import load_settings
{imports}

process_tuning.apply = lambda: os._exit(7)
settings = load_settings(
    store="sqlite:///" + sys.argv[1], grpc_address="127.0.0.1:0", http_address="127.0.0.1:0",
    metrics=False,
)
asyncio.run({call})
"""


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("from interaction_svc.cli import serve", "serve._serve(settings, examples=False)"),
        ("from interaction_svc.runtime.workers import worker", "worker._serve(settings, 1)"),
    ],
    ids=["serve", "worker"],
)
def test_a_process_that_serves_is_tuned_once_its_server_has_started(
    tmp_path: Path, imports: str, call: str
) -> None:
    store = tmp_path / "x.db"
    subprocess.run(
        [sys.executable, "-m", "interaction_svc", "migrate", "--store", f"sqlite:///{store}"],
        check=True,
        capture_output=True,
    )
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(imports=imports, call=call), str(store)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 7, ended.stderr.decode()
