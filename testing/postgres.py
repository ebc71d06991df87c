"""A real PostgreSQL for tests: a cluster of this run's own, and databases in it."""

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
# Nothing here has to outlive the machine; a test that is about that sets it otherwise.
_QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


def found_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None: it isn't on this machine."""
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
    """Return what a command begins with to be run as this user; None: as who we are.

    Not with subprocess's own `user`, for which it forks: beside gRPC's threads, whose handlers then
    run in the child, that crashes now and then.
    """
    if user is None:
        return []
    group = pwd.getpwnam(user).pw_gid
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


class Cluster:
    """A PostgreSQL server that can be started, stopped and killed.

    root can't run one: it is then run as another user, whose its folder is.
    """

    def __init__(self, folder: Path, programs: Path, port: int | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.programs = programs
        self.port = port or free_port()
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None

    def make(self, **settings: str) -> None:
        """Make a new one, with these settings in its postgresql.conf."""
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
        """Add settings, for its next start, or reload."""
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
        """Have it read its settings anew."""
        self.run("pg_ctl", "reload", "--pgdata", str(self.data))

    def promote(self) -> None:
        """Make a standby a primary; it is one when this returns."""
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
        """Return its processes: the first is the one that lets others in, its parent."""
        parent = self.process_id
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [parent, *map(int, children)]

    def kill(self) -> None:
        """End all its processes with SIGKILL, as a machine does that loses its power."""
        processes = self.processes()
        _signal(processes, signal.SIGKILL)
        wait_until(lambda: not any(map(_is_running, processes)))
        # Where nobody asks what became of a process, its number goes on to look as if it ran.
        self._process_file.unlink()
        (self.folder / f".s.PGSQL.{self.port}.lock").unlink()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Have it stand still until the end of the block: it keeps what it holds, and is silent."""
        processes = self.processes()
        _signal(processes[:1], signal.SIGSTOP)  # from now on there are no new ones
        processes = self.processes()
        _signal(processes, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(processes, signal.SIGCONT)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end; give what it prints."""
        # To a file: the server that pg_ctl starts would hold a pipe open.
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
        """Return a database's URL; `port`: of what is between."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        password = PASSWORD.replace(" ", "%20")
        return (
            f"postgresql://{USER}:{password}@{HOST}:{port or self.port}/{database}?{query}".rstrip(
                "?"
            )
        )

    def new_database(self) -> str:
        """Make an empty database, and give its name."""
        name = f"test_{secrets.token_hex(8)}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return name

    def sql(self, database: str, statement: str) -> str:
        """Run statements from outside; give the rows as lines, with | between their columns."""
        return self.run(
            "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
            "--set", "ON_ERROR_STOP=1", "--host", HOST, "--port", str(self.port),
            "--username", USER, "--dbname", database, "--command", statement,
        ).strip()  # fmt: skip

    @asynccontextmanager
    async def connected(self, database: str) -> AsyncIterator[asyncpg.Connection]:
        """Connect from outside until the end of the block."""
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
    # Not pytest's folder, which is its user's alone, and too long a name for a socket.
    with tempfile.TemporaryDirectory(prefix="interaction-svc-") as folder:
        os.chmod(folder, 0o755)
        cluster = Cluster(Path(folder), programs)
        cluster.own(cluster.folder)
        try:
            yield cluster
        finally:
            if not cluster.is_started:
                cluster.start()  # killed, it left memory behind, which its next start finds
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
    """Run a standby that follows this primary, to which it is known by that name."""
    with _in_new_folder() as standby:
        standby.run(
            "pg_basebackup", "--pgdata", str(standby.data), "--checkpoint", "fast", "--no-sync",
            "--wal-method", "stream", "--write-recovery-conf",
            "--dbname", f"host={HOST} port={primary.port} user={USER} application_name={name}",
        )  # fmt: skip
        standby.configure(**settings)
        standby.start()
        yield standby
