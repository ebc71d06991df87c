"""A real PgBouncer for tests, between the service and a cluster."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testing.postgres import HOST, PASSWORD, USER, Cluster, as_user, free_port
from testing.wait import wait_until

_UNPRIVILEGED = "postgres"


def found_pgbouncer() -> str | None:
    """Return the path of the program; None if it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def running_pgbouncer(cluster: Cluster, *, connections: int, **settings: str) -> Iterator[int]:
    """Run PgBouncer in transaction mode until the end of the block, and yield its port.

    It opens at most `connections` to each database; further clients wait. `settings` are added to
    its pgbouncer.ini.
    """
    program = found_pgbouncer()
    assert program is not None
    port = free_port()
    user = _UNPRIVILEGED if os.geteuid() == 0 else None  # PgBouncer refuses to run as root
    with tempfile.TemporaryDirectory(prefix="interaction-svc-") as name:
        folder = Path(name)
        users, file = folder / "users", folder / "pgbouncer.ini"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        file.write_text(
            f"[databases]\n* = host={HOST} port={cluster.port}\n"
            "[pgbouncer]\n"
            f"listen_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\nlogfile = {folder / 'log'}\n"
            f"pool_mode = transaction\ndefault_pool_size = {connections}\nmax_client_conn = 200\n"
            + "".join(f"{key} = {value}\n" for key, value in settings.items())
        )
        if user is not None:
            entry = pwd.getpwnam(user)
            for path in (folder, users, file):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        command = [*as_user(user), program, "--quiet", str(file)]
        with subprocess.Popen(command) as process:
            try:
                wait_until(lambda: process.poll() is not None or _listens(port))
                assert process.poll() is None, (folder / "log").read_text()
                yield port
            finally:
                process.kill()


def _listens(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
        return True
    return False
