"""Faults that end a listener of a server, while its process keeps running."""

import os
import signal
from pathlib import Path

_SITE = """
import os, signal, socket
from pathlib import Path

def shut_down(*_):
    port = int(Path(__file__).with_name("port").read_text())
    for name in os.listdir("/proc/self/fd"):
        try:
            own = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with own:
            if own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and (
                own.family in (socket.AF_INET, socket.AF_INET6) and own.getsockname()[1] == port
            ):
                own.shutdown(socket.SHUT_RDWR)

def end_accept_loop(*_):
    from grpc._cython import cygrpc

    handle = cygrpc._handle_rpc

    def fail(*_):
        cygrpc._handle_rpc = handle
        raise UnicodeDecodeError("utf-8", b"SecretThatNobodyMayLog", 0, 1, "SecretThatNobodyMayLog")

    cygrpc._handle_rpc = fail

def take_over(*_):
    global taken
    shut_down()
    taken = socket.create_server(("127.0.0.1", int(Path(__file__).with_name("port").read_text())))

signal.signal(signal.SIGUSR1, shut_down)
signal.signal(signal.SIGWINCH, take_over)
signal.signal(signal.SIGUSR2, end_accept_loop)
"""
SHUT_DOWN = signal.SIGUSR1
END_ACCEPT_LOOP = signal.SIGUSR2
TAKE_OVER = signal.SIGWINCH


def prepared(folder: Path) -> dict[str, str]:
    """Return the environment of a process whose listeners fail at a signal.

    At SHUT_DOWN it stops listening on the chosen port; at TAKE_OVER another socket then listens
    there. At END_ACCEPT_LOOP the next gRPC call, at the latest that of the server to itself, ends
    the accept loop with an error.
    """
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def choose(folder: Path, address: str) -> None:
    """Set the port for SHUT_DOWN to that of an address or URL."""
    (folder / "site" / "port").write_text(address.rpartition(":")[2].partition("/")[0])
