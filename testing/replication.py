"""A real primary with a streaming standby, for tests of reads from it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from testing.postgres import HOST, USER, Cluster, found_programs, running_cluster
from testing.wait import wait_until

_REPLAYED = "SELECT coalesce(pg_last_wal_replay_lsn(), '0/0') >= '{}'::pg_lsn"


class Standby(Cluster):
    """A standby, whose replay can be paused; it replays as soon as it can otherwise."""

    def follow(self, primary: Cluster) -> None:
        """Make it of the primary."""
        self.own(self.folder)
        self.run(
            "pg_basebackup", "--pgdata", str(self.data), "--host", HOST,
            "--port", str(primary.port), "--username", USER, "--write-recovery-conf",
            "--checkpoint", "fast", "--no-sync",
        )  # fmt: skip
        self.configure()

    def pause(self) -> None:
        """Replay nothing any more."""
        self.sql("postgres", "SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        wait_until(lambda: self.sql("postgres", state) == "paused")

    def resume(self) -> None:
        self.sql("postgres", "SELECT pg_wal_replay_resume()")


class Pair(NamedTuple):
    primary: Cluster
    standby: Standby

    def catch_up(self) -> None:
        """Return when the standby has replayed all that the primary has by now."""
        there = self.primary.sql("postgres", "SELECT pg_current_wal_flush_lsn()")
        wait_until(lambda: self.standby.sql("postgres", _REPLAYED.format(there)) == "t")

    def new_database(self) -> str:
        name = self.primary.new_database()
        self.catch_up()
        return name


@contextmanager
def running_standby(primary: Cluster) -> Iterator[Standby]:
    """Run a new standby until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="interaction-svc-") as folder:
        os.chmod(folder, 0o755)
        standby = Standby(Path(folder), primary.programs)
        standby.follow(primary)
        standby.start()
        try:
            yield standby
        finally:
            standby.stop()


@pytest.fixture(scope="session")
def running_pair() -> Iterator[Pair]:
    if found_programs() is None:
        pytest.skip("PostgreSQL isn't on this machine")
    # Commits are waited for, as in production: a standby gets only what is flushed.
    with running_cluster(synchronous_commit="on") as primary, running_standby(primary) as standby:
        yield Pair(primary, standby)


@pytest.fixture
def pair(running_pair: Pair) -> Iterator[Pair]:
    """The pair of this process's tests, which goes on replaying after each."""
    yield running_pair
    running_pair.standby.resume()
