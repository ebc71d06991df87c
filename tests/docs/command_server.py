"""A process that runs `interaction-svc` commands in forks of itself, to save their imports.

Imports take nearly all of the second that a command needs to start, and the pages have 60 commands.
In the shell of a page, `interaction-svc` is a client that sends its arguments, folder, environment
and streams to this process, and exits with the status of the command. Commands that serve run in
a process of their own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from testing.wait import wait_until

from interaction_svc.cli import main
from tests.docs.pages import ROOT

_CLIENT = """#!{python} -IS
import json, os, socket, sys

request = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"\\n"], [0, 1, 2])
    server.sendall(json.dumps(request).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16)))
"""


@contextmanager
def command_server() -> Iterator[Path]:
    """Start the command server, and yield the folder with the client, for the PATH."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as cleanup:
        address, client = Path(folder, "address"), Path(folder, "bin", "interaction-svc")
        client.parent.mkdir()
        client.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
        client.chmod(0o700)
        command = [sys.executable, "-m", "tests.docs.command_server", str(address)]
        process = cleanup.enter_context(subprocess.Popen(command, cwd=ROOT))
        try:
            wait_until(address.exists)
            yield client.parent
        finally:
            process.terminate()


def _serve(address: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        Path(f"{address}.new").rename(address)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request = b""
    while part := connection.recv(2**16):
        request += part
    command = os.fork()
    if command == 0:
        connection.close()
        _run(json.loads(request), streams)
    for stream in streams:
        os.close(stream)
    _, status = os.waitpid(command, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(request: dict[str, Any], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["interaction-svc", *request["arguments"]]
    main()
    sys.exit()


if __name__ == "__main__":
    _serve(sys.argv[1])
