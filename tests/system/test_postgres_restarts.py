"""PostgreSQL stops, is killed or hangs under a server with writers and readers."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from testing.build import Parents, new_parents
from testing.log_lines import logged
from testing.postgres import Cluster, found_programs, running_cluster
from testing.process import served
from testing.requests import Code
from testing.traffic import NOT_SERVING, SERVING, traffic, until

PROBE = {"store.postgres.store.PROBE_SECONDS": 1.0}
"""The time after which a probe without a response has failed."""


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A PostgreSQL that these tests may stop and kill."""
    if found_programs() is None:
        pytest.skip("PostgreSQL isn't on this machine")
    # Acknowledged commits must survive a crash.
    with running_cluster(synchronous_commit="on") as running:
        yield running


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
async def test_the_service_recovers_when_the_database_restarts(
    own_cluster: Cluster, tmp_path: Path, parents: Parents, how: str
) -> None:
    url = own_cluster.url(own_cluster.new_database())
    with served(tmp_path, "--store", url) as server:
        async with traffic(server.grpc_address, parents) as calls:
            if how == "kill":
                own_cluster.kill()
            else:
                own_cluster.stop(how)
            await calls.until_serving(False)
            assert calls.refused
            own_cluster.start()
            await calls.until_serving(True)
            await calls.until_all_succeed()
        assert set(calls.refused) == {Code.UNAVAILABLE}
        assert calls.health == [SERVING, NOT_SERVING, SERVING]
    assert "internal error" not in server.log.read_text()
    assert logged(server, "not serving: the store can't be used")


async def test_calls_end_in_time_while_the_database_hangs(
    own_cluster: Cluster, tmp_path: Path, parents: Parents
) -> None:
    """A call ends at the statement timeout or the service's deadline, whichever is first."""
    url = own_cluster.url(own_cluster.new_database())
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with (
        served(
            folders[0],
            "--store",
            f"{url}?connect_timeout=1",
            "--postgres-statement-seconds",
            "1",
            times=PROBE,
        ) as impatient,
        served(folders[1], "--store", url, "--deadline-seconds", "2", times=PROBE) as patient,
    ):
        async with (
            traffic(impatient.grpc_address, parents) as calls,
            traffic(patient.grpc_address, new_parents(), seconds=None) as late,
        ):
            with own_cluster.hung():
                await until(lambda: len(late.refused) >= 24, "calls that end at the deadline")
                assert set(late.refused) == {Code.DEADLINE_EXCEEDED}
                await until(lambda: len(calls.refused) >= 24, "calls that end with a statement")
                assert set(calls.refused) == {Code.UNAVAILABLE}
                for one in (calls, late):
                    await one.until_serving(False)
            for one in (calls, late):
                await one.until_serving(True)
                await one.until_all_succeed()
        for one in (calls, late):
            assert one.health == [SERVING, NOT_SERVING, SERVING]
    assert "internal error" not in impatient.log.read_text() + patient.log.read_text()


async def test_a_hanging_backend_does_not_affect_calls_on_others(
    own_cluster: Cluster, tmp_path: Path, parents: Parents
) -> None:
    database = own_cluster.new_database()
    flags = ("--postgres-statement-seconds", "2")
    with served(tmp_path, "--store", own_cluster.url(database), *flags) as server:
        async with traffic(server.grpc_address, parents) as calls:
            stopped = await _stop_one_in_use(own_cluster, database)
            try:
                for _ in range(3):
                    await calls.until_all_succeed()
                await until(lambda: bool(calls.refused), "call that isn't answered")
                await calls.until_all_succeed()
            finally:
                os.kill(stopped, signal.SIGCONT)
            # The backend detects that its connection was terminated.
            await until(lambda: not Path(f"/proc/{stopped}").exists(), "end of the backend")
        assert set(calls.refused) == {Code.UNAVAILABLE}
        assert calls.health == [SERVING]


async def _stop_one_in_use(cluster: Cluster, database: str) -> int:
    """Suspend a backend that a call uses, at a time when it holds no shared lock."""
    async with cluster.connected(database) as outside:
        while True:
            used = await outside.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND query LIKE '%interactions%' AND pid <> pg_backend_pid()"
                " ORDER BY query_start DESC LIMIT 1"
            )
            os.kill(used, signal.SIGSTOP)
            waits = await outside.fetchval(
                "SELECT wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = $1", used
            )
            if waits:
                return int(used)
            os.kill(used, signal.SIGCONT)
