"""Run the commands of a page: in a folder like a clone, with a shell and a server on free ports."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import grpc
from grpc import StatusCode
from testing.process import Served, served

from interaction_svc.v1.interaction_service_pb2 import GetInteractionRequest
from interaction_svc.v1.interaction_service_pb2_grpc import InteractionServiceStub
from tests.docs.pages import ROOT
from tests.docs.placeholders import Placeholders

_SECONDS = 60
_MARK = "[end of a command, status "
_SERVES = re.compile(r"\b(interaction-svc|make) serve\b")
_CALLS = re.compile(r"127\.0\.0\.1:(50051|8080|9464)\b|interaction-svc (get|list|delete) ")
_ABSOLUTE = ("/backups/", "/etc/interaction-svc/")
"""Absolute folders on the pages, which the tests create inside the folder of the page."""


class Shell:
    """A shell that replaces the documented addresses by those of the test's server."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, env: dict[str, str]):
        self.folder = folder
        self.placeholders = Placeholders()
        self._process = process
        self._env = env
        self._servers = ExitStack()
        self._server: Served | None = None

    async def run(self, command: str) -> tuple[str, int]:
        """Run a command; return its output (stdout and stderr) and its exit status."""
        if _CALLS.search(command) and self._server is None:
            await self._start_server()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(
            f"{{ {self._here(command)}\n}} < /dev/null 2>&1; status=$?\n"
            f"printf '%s%s\\n' '{_MARK}' $status; (exit $status)\n".encode()
        )
        async with asyncio.timeout(_SECONDS):
            printed = (await self._process.stdout.readuntil(_MARK.encode())).decode()
            status = int(await self._process.stdout.readline())
        if "keys create" in command and self._server is not None and not status:
            await self._wait_for_keys()
        printed = printed.removesuffix(_MARK)
        lines = [f"{line.rstrip()}\n" for line in self._documented(printed).split("\n")]
        return "".join(lines[:-1] if printed.endswith("\n") else lines), status

    async def serve(self, command: str, is_whole: Callable[[str], bool]) -> str:
        """Run a command that serves until its output is complete or it exits; return the output."""
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", self._here(command),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, cwd=self.folder, env=self._env,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout
        printed = ""
        try:
            async with asyncio.timeout(_SECONDS):
                while line := (await process.stdout.readline()).decode():
                    printed += self._documented(line).rstrip() + "\n"
                    if is_whole(printed):
                        break
        except TimeoutError:
            printed += f"[output incomplete after {_SECONDS} seconds]\n"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGTERM)
            await process.communicate()
        return printed

    def close(self) -> None:
        self._servers.close()

    async def _start_server(self) -> None:
        self._server = self._servers.enter_context(served(self.folder))
        await self.run(f"export INTERACTION_SVC_SERVER={self._server.grpc_address}")

    async def _wait_for_keys(self) -> None:
        """Wait until the server requires a key, which takes up to 2 seconds."""
        assert self._server is not None
        async with grpc.aio.insecure_channel(self._server.grpc_address) as channel:
            stub = InteractionServiceStub(channel)
            code = None
            async with asyncio.timeout(_SECONDS):
                while code is not StatusCode.UNAUTHENTICATED:
                    try:
                        await stub.GetInteraction(GetInteractionRequest())
                    except grpc.aio.AioRpcError as error:
                        code = error.code()
                    await asyncio.sleep(0.05)

    def _here(self, command: str) -> str:
        command = self.placeholders.in_command(command)
        if self._server is not None:
            command = command.replace("127.0.0.1:50051", self._server.grpc_address)
            command = command.replace("http://127.0.0.1:8080", self._server.base_url)
            command = command.replace("http://127.0.0.1:9464/metrics", self._server.metrics_url)
        for folder in _ABSOLUTE:
            command = command.replace(folder, f"{self.folder}{folder}")
        return command

    def _documented(self, printed: str) -> str:
        for folder in _ABSOLUTE:
            printed = printed.replace(f"{self.folder}{folder}", folder)
        return printed


def serves(command: str) -> bool:
    """Return whether a command starts a server, and so does not exit by itself."""
    return _SERVES.search(command) is not None


@asynccontextmanager
async def opened_shell(folder: Path, commands: Path) -> AsyncIterator[Shell]:
    """Open a shell in a folder with the files of a clone, and with `commands` on its PATH."""
    for name in ("samples", "deploy"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", "pyproject.toml", "requirements", "clients", "bench", "src"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    for name in _ABSOLUTE:
        Path(f"{folder}{name}").mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "INTERACTION_SVC_GRPC_ADDRESS": "127.0.0.1:0",
        "INTERACTION_SVC_HTTP_ADDRESS": "127.0.0.1:0",
        "INTERACTION_SVC_METRICS_ADDRESS": "127.0.0.1:0",
        "COLUMNS": "120",
        "NODE_PATH": str(ROOT / "tests" / "node" / "node_modules"),
    }
    process = await asyncio.create_subprocess_exec(
        "bash", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        cwd=folder, env={**env, "PATH": f"{commands}:{env['PATH']}"}, limit=2**20,
    )  # fmt: skip
    shell = Shell(folder, process, env)
    try:
        yield shell
    finally:
        shell.close()
        process.terminate()
        await process.communicate()
