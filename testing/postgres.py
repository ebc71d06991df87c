"""A real PostgreSQL for tests: a temporary cluster, and databases in it."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg

from testing.wait import wait_until

HOST = "127.0.0.1"
USER = "interaction_svc"
PASSWORD = "a secret of tests"
_UNPRIVILEGED = "postgres"
# Tests don't need durability. Tests of crashes override these settings.
_QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


def found_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None if PostgreSQL is not installed."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0,
    )
    if installed:
        return installed[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def as_user(user: str | None) -> list[str]:
    """Return the prefix of a command that runs it as `user`; None is the current user.

    The `user` argument of subprocess is not used, because it needs a fork. In a process with gRPC's
    threads, gRPC's fork handlers then run in the child, which sometimes crashes.
    """
    if user is None:
        return []
    group = pwd.getpwnam(user).pw_gid
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


class Cluster:
    """A PostgreSQL server that can be started, stopped and killed.

    PostgreSQL refuses to run as root. If this process is root, another user runs it and owns
    its folder.
    """

    def __init__(self, folder: Path, programs: Path, port: int | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.programs = programs
        self.port = port or free_port()
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None

    def make(self, **settings: str) -> None:
        """Create the cluster, with these settings in its postgresql.conf."""
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self.own(self.folder)
        self.own(password)
        self.run(
            "initdb", "--pgdata", str(self.data), "--username", USER, "--pwfile", str(password),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync",
        )  # fmt: skip
        self.configure(**{**_QUICK, **settings})

    def configure(self, **settings: str) -> None:
        """Add settings. They apply after the next start or reload."""
        given = {
            "port": str(self.port),
            "listen_addresses": HOST,
            "unix_socket_directories": str(self.folder),
            **settings,
        }
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in given.items())

    def start(self) -> None:
        log = self.folder / "log"
        self.run("pg_ctl", "start", "--wait", "--pgdata", str(self.data), "--log", str(log))

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "stop", "--wait", "--pgdata", str(self.data), "--mode", mode)

    def reload(self) -> None:
        """Reload the settings."""
        self.run("pg_ctl", "reload", "--pgdata", str(self.data))

    def promote(self) -> None:
        """Promote a standby, and wait until it is a primary."""
        self.run("pg_ctl", "promote", "--wait", "--pgdata", str(self.data))

    @property
    def process_id(self) -> int:
        return int(self._process_file.read_text().split()[0])

    @property
    def _process_file(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def is_started(self) -> bool:
        return self._process_file.exists()

    def processes(self) -> list[int]:
        """Return the IDs of its processes, that of the postmaster first."""
        parent = self.process_id
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [parent, *map(int, children)]

    def kill(self) -> None:
        """Kill all its processes with SIGKILL, which simulates a power failure."""
        processes = self.processes()
        _signal(processes, signal.SIGKILL)
        wait_until(lambda: not any(map(_is_running, processes)))
        # A killed process may stay as a zombie, and these files would then prevent a start.
        self._process_file.unlink()
        (self.folder / f".s.PGSQL.{self.port}.lock").unlink()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Suspend all its processes until the end of the block; its connections stay open."""
        processes = self.processes()
        _signal(processes[:1], signal.SIGSTOP)  # the postmaster starts no more of them
        processes = self.processes()
        _signal(processes, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(processes, signal.SIGCONT)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end, and return its output."""
        # The output is a file, because the server that pg_ctl starts would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            status = subprocess.call(
                [*as_user(self._user), str(self.programs / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, "PGPASSWORD": PASSWORD},
            )
            output.seek(0)
            printed = output.read().decode()
        assert status == 0, (program, printed)
        return printed

    def own(self, path: Path) -> None:
        """Change the owner of a file to the user that runs the server."""
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def url(self, database: str, *, port: int | None = None, **options: str) -> str:
        """Return a database's URL, with the port of the server, or of a proxy in `port`."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        password = PASSWORD.replace(" ", "%20")
        return (
            f"postgresql://{USER}:{password}@{HOST}:{port or self.port}/{database}?{query}".rstrip(
                "?"
            )
        )

    def new_database(self) -> str:
        """Create an empty database, and return its name."""
        name = f"test_{secrets.token_hex(8)}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return name

    def sql(self, database: str, statement: str) -> str:
        """Run statements with psql. Return the rows as lines, with | between their columns."""
        return self.run(
            "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
            "--set", "ON_ERROR_STOP=1", "--host", HOST, "--port", str(self.port),
            "--username", USER, "--dbname", database, "--command", statement,
        ).strip()  # fmt: skip

    @asynccontextmanager
    async def connected(self, database: str) -> AsyncIterator[asyncpg.Connection]:
        """Yield a new connection, which is open until the end of the block."""
        connection = await asyncpg.connect(self.url(database))
        try:
            yield connection
        finally:
            await connection.close()


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(process, number)


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextmanager
def _in_new_folder() -> Iterator[Cluster]:
    programs = found_programs()
    assert programs is not None
    # pytest's folder can't be used: other users can't enter it, and its path is too long for a
    # socket.
    with tempfile.TemporaryDirectory(prefix="interaction-svc-") as folder:
        os.chmod(folder, 0o755)
        cluster = Cluster(Path(folder), programs)
        cluster.own(cluster.folder)
        try:
            yield cluster
        finally:
            if not cluster.is_started:
                cluster.start()  # after a kill, the next start frees its shared memory
            cluster.stop()


@contextmanager
def running_cluster(**settings: str) -> Iterator[Cluster]:
    """Run a new cluster until the end of the block."""
    with _in_new_folder() as cluster:
        cluster.make(**settings)
        cluster.start()
        yield cluster


@contextmanager
def running_standby(primary: Cluster, name: str, **settings: str) -> Iterator[Cluster]:
    """Run a standby of this primary, with `name` as its application_name."""
    with _in_new_folder() as standby:
        standby.run(
            "pg_basebackup", "--pgdata", str(standby.data), "--checkpoint", "fast", "--no-sync",
            "--wal-method", "stream", "--write-recovery-conf",
            "--dbname", f"host={HOST} port={primary.port} user={USER} application_name={name}",
        )  # fmt: skip
        standby.configure(**settings)
        standby.start()
        yield standby
