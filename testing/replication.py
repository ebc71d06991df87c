"""A real primary with a streaming standby, for tests of reads from the standby."""

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
    """A standby whose replay can be paused."""

    def follow(self, primary: Cluster) -> None:
        """Create the standby as a copy of the primary."""
        self.own(self.folder)
        self.run(
            "pg_basebackup", "--pgdata", str(self.data), "--host", HOST,
            "--port", str(primary.port), "--username", USER, "--write-recovery-conf",
            "--checkpoint", "fast", "--no-sync",
        )  # fmt: skip
        self.configure()

    def pause(self) -> None:
        """Pause the replay, and wait until it is paused."""
        self.sql("postgres", "SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        wait_until(lambda: self.sql("postgres", state) == "paused")

    def resume(self) -> None:
        self.sql("postgres", "SELECT pg_wal_replay_resume()")


class Pair(NamedTuple):
    primary: Cluster
    standby: Standby

    def catch_up(self) -> None:
        """Wait until the standby has replayed all current writes of the primary."""
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
    # Commits are flushed, as in production, because a standby gets only flushed WAL.
    with running_cluster(synchronous_commit="on") as primary, running_standby(primary) as standby:
        yield Pair(primary, standby)


@pytest.fixture
def pair(running_pair: Pair) -> Iterator[Pair]:
    """Yield the pair of this test process. Its replay is resumed after each test."""
    yield running_pair
    running_pair.standby.resume()
