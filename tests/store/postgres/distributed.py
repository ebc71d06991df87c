"""A PostgreSQL cluster with a stand-in for Citus, which logs every statement."""

import asyncio
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from testing.fake_citus import with_stand_in
from testing.postgres import Cluster, found_programs
from testing.wait import wait_until

from interaction_svc.store.factory import distribute_store

_TEMPLATE = "distributed"
_OWN = "interactions|tombstones|session_owners"
_TABLE = re.compile(rf"\b(?:FROM|JOIN|UPDATE|INTO) ({_OWN})\b")
_EQUALITY = re.compile(r"(?:\w+\.)?session_sid = \$(\d+)\b")
_VALUES = re.compile(rf"INSERT INTO (?:{_OWN}) \(session_sid, [^)]*\) VALUES ([^A-Z]*)")
_PARAMETER = re.compile(r"\$(\d+) = ('(?:[^']|'')*'|NULL)")


@contextmanager
def running_with_stand_in() -> Iterator[Cluster]:
    """Run a new cluster that has the extension, until the end of the block."""
    programs = found_programs()
    assert programs is not None
    with tempfile.TemporaryDirectory(prefix="interaction-svc-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        (folder / "cluster").mkdir()
        cluster = Cluster(folder / "cluster", with_stand_in(programs, folder / "programs"))
        cluster.make(
            logging_collector="on",
            log_destination="jsonlog",
            log_statement="all",
            log_filename="log",
        )
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


def make_template(cluster: Cluster) -> None:
    """Create the template database of new_distributed."""
    cluster.sql("postgres", f"CREATE DATABASE {_TEMPLATE}")
    cluster.sql(_TEMPLATE, "CREATE EXTENSION citus")
    asyncio.run(distribute_store(cluster.url(_TEMPLATE)))


def new_distributed(cluster: Cluster) -> str:
    """Create a database with the extension and distributed tables; return its name."""
    name = f"test_{secrets.token_hex(8)}"
    cluster.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    return name


class Statement(NamedTuple):
    """A statement that a database has executed, with the values of its parameters."""

    text: str
    values: dict[int, str]
    transaction: str

    @property
    def tables(self) -> list[str]:
        """Return the distributed tables in its text, once for each occurrence."""
        return _TABLE.findall(self.text)

    @property
    def sessions(self) -> set[str]:
        """Return the Sessions whose shards it queries; fail if it may query other shards.

        Each table in it must have an equality on session_sid in the same SELECT, or its rows in
        VALUES.
        """
        found = set()
        for match in _TABLE.finditer(self.text):
            rows = _VALUES.match(self.text, match.start() - len("INSERT "))
            if rows is not None:
                first = [int(row) for row in re.findall(r"\(\$(\d+)", rows[1])]
                assert first, self.text
                found |= {self._session(number) for number in first}
                continue
            equality = _EQUALITY.search(_rest_of_select(self.text, match.end()))
            assert equality is not None, self.text
            found.add(self._session(int(equality[1])))
        return found

    def _session(self, number: int) -> str:
        """Return the SID in a parameter."""
        return f"KC{self.values[number].replace('-', '')}"


def _rest_of_select(text: str, begin: int) -> str:
    """Return the text from `begin` to the end of its SELECT, without text in parentheses."""
    depth, rest = 0, ""
    for place in range(begin, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth < 0 or (depth == 0 and text.startswith("UNION", place)):
            break
        rest += text[place] if depth == 0 else ""
    return rest


def statements(cluster: Cluster, database: str) -> list[Statement]:
    """Return the statements on the distributed tables that a database has logged so far."""
    log = cluster.data / "log" / "log.json"
    # Another process of the server writes the log, in order: wait for the line of this statement.
    marker = secrets.token_hex(8)
    cluster.sql(database, f"SELECT '{marker}'")
    wait_until(lambda: f"{marker}'" in log.read_text())
    found = []
    for line in log.read_text().rpartition("\n")[0].splitlines():
        entry = json.loads(line)
        message = entry.get("message", "")
        if entry.get("dbname") != database or not message.startswith("execute "):
            continue
        values = {
            int(number): value.strip("'")
            for number, value in _PARAMETER.findall(entry.get("detail", ""))
        }
        transaction = f"{entry['session_id']} {entry['vxid']}"
        found.append(Statement(message.partition(": ")[2], values, transaction))
    return [statement for statement in found if statement.tables]
