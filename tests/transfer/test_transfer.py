"""Import and export by the command line: round trips, faults, and memory."""

import asyncio
import io
import json
import os
import sqlite3
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testing.build import NOON_US, SECOND_US, new_interaction, new_parents, new_session, new_sid
from testing.paths import SAMPLES
from testing.peak_memory import measured
from testing.process import COMMAND, run
from testing.resources import BASE_URL, FIVE, PARENTS, broken, lines
from testing.strategies import interactions

from interaction_svc.app.ingest import Ingest
from interaction_svc.codec.twilio_json import to_json
from interaction_svc.domain import timestamps
from interaction_svc.domain.interactions import Outcome
from interaction_svc.domain.principals import ANONYMOUS
from interaction_svc.store.factory import open_store
from interaction_svc.store.sqlite.row_format import pack
from interaction_svc.transfer import ImportReport, Problem, export_lines, import_stream
from interaction_svc.v1 import interaction_pb2 as pb


def test_export_names_a_damaged_row(tmp_path: Path) -> None:
    run("import", "-", store_flag(tmp_path), stdin=lines(FIVE).encode())
    with sqlite3.connect(tmp_path / "interactions.db") as db:
        sid = pack(str(FIVE[2]["sid"]))
        db.execute("UPDATE interactions SET frame = x'0a02ffff' WHERE sid = ?", (sid,))
    db.close()
    exported = run("export", store_flag(tmp_path))
    assert exported.returncode == 1
    assert f"interaction {FIVE[2]['sid']} is damaged".encode() in exported.stderr
    assert b"Traceback" not in exported.stderr
    checked = run("migrate", "--check", store_flag(tmp_path))
    assert checked.returncode == 1
    assert f"interaction {FIVE[2]['sid']}" in checked.stdout.decode()


def test_import_reads_a_pipe(tmp_path: Path) -> None:
    command = " ".join([*COMMAND, "import", "--dry-run", "<(cat)"])
    ran = subprocess.run(
        ["bash", "-c", command], input=lines(FIVE).encode(), capture_output=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, b"5 good, 0 rejected\n")


@given(st.lists(interactions(), max_size=8, unique_by=lambda i: (i.session_sid, i.sid)))
def test_importing_an_export_creates_an_equal_store(
    tmp_path_factory: pytest.TempPathFactory, stored: list[pb.Interaction]
) -> None:
    folder = tmp_path_factory.mktemp("stores")

    async def there_and_back() -> None:
        first = await open_store(f"sqlite:///{folder / 'first.db'}")
        second = await open_store(f"sqlite:///{folder / 'second.db'}")
        try:
            ingest = Ingest(first)
            await ingest.commit(await ingest.prepare(ANONYMOUS, stored))
            exported = b"".join([line async for line in export_lines(first, BASE_URL)])
            report, problems = ImportReport(), list[Problem]()
            await import_stream(io.BytesIO(exported), Ingest(second), report, problems.append)
            assert problems == []
            assert report.outcomes == Counter({Outcome.CREATED: len(stored)} if stored else {})
            bounds: dict[str, Any] = {"after": None, "limit": 100, "max_bytes": 2**30}
            assert await first.scan(**bounds) == await second.scan(**bounds)
        finally:
            await first.close()
            await second.close()

    asyncio.run(there_and_back())


def store_flag(folder: Path) -> str:
    return f"--store=sqlite:///{folder / 'interactions.db'}"


def sample_files() -> list[str]:
    return sorted(str(path) for path in SAMPLES.glob("*.json*"))


def test_the_samples_are_imported_once(tmp_path: Path) -> None:
    first = run("import", *sample_files(), store_flag(tmp_path))
    assert (first.returncode, first.stderr) == (0, b"")
    counts = b"300 created, 0 updated, 0 unchanged, 0 stale, 0 deleted, 0 rejected\n"
    assert first.stdout == counts
    before = run("export", store_flag(tmp_path)).stdout
    again = run("import", *sample_files(), store_flag(tmp_path))
    assert again.stdout == counts.replace(b"300", b"0").replace(b"0 unch", b"300 unch")
    assert run("export", store_flag(tmp_path)).stdout == before
    rows = [json.loads(line) for line in before.splitlines()]
    keys = [(row["session_sid"], row["date_created"], row["sid"]) for row in rows]
    assert keys == sorted(keys)
    statuses = {row[f"{side}_resource_status"] for row in rows for side in ("inbound", "outbound")}
    assert len(statuses - {None}) == 23
    assert len({row["account_sid"] for row in rows}) == 2
    assert len({row["session_sid"] for row in rows}) == 6
    assert {row["type"] for row in rows} == {"message", "voice", "unknown"}


def test_an_import_with_a_bad_record_keeps_the_others_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text(lines([FIVE[0], broken(type="fax"), FIVE[2]]))
    ran = run("import", str(file), "-", store_flag(tmp_path), stdin=b"nonsense")
    assert ran.returncode == 1
    assert ran.stdout.startswith(b"2 created")
    assert ran.stdout.endswith(b"2 rejected\n")
    reported = ran.stderr.decode().splitlines()
    assert reported[0] == f"{file}: line 2: type: must be one of message, unknown, voice"
    assert reported[1].startswith("-: index 0: is not valid JSON")
    assert len(run("export", store_flag(tmp_path)).stdout.splitlines()) == 2


def test_a_dry_run_does_not_change_the_store(tmp_path: Path) -> None:
    ran = run("import", "--dry-run", "-", store_flag(tmp_path), stdin=lines(FIVE).encode())
    assert (ran.returncode, ran.stdout) == (0, b"5 good, 0 rejected\n")
    assert not os.listdir(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    ran = run("import", "-", "none.json", store_flag(tmp_path), cwd=tmp_path, stdin=b"")
    assert ran.returncode == 2
    assert b"none.json is not a file" in ran.stderr
    assert not os.listdir(tmp_path)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    ran = run("import", "/proc/self/mem", store_flag(tmp_path))
    assert ran.returncode == 1
    assert ran.stderr == b"interaction-svc: /proc/self/mem: Input/output error\n"


def test_an_import_conflict_is_a_bad_record(tmp_path: Path) -> None:
    run("import", "-", store_flag(tmp_path), stdin=lines(FIVE).encode())
    stolen = lines([broken(service_sid=new_sid("KS")), FIVE[2]])
    ran = run("import", "-", store_flag(tmp_path), stdin=stolen.encode())
    assert ran.returncode == 1
    assert b"stored under another Service" in ran.stderr
    assert b"1 unchanged" in ran.stdout


def test_export_of_one_service_and_one_session(tmp_path: Path) -> None:
    other = PARENTS._replace(service_sid=new_sid("KS"), session_sid=new_sid("KC"))
    third = PARENTS._replace(session_sid=new_sid("KC"))
    others = [to_json(new_interaction(p), BASE_URL) for p in (other, third)]
    run("import", "-", store_flag(tmp_path), stdin=lines([*FIVE, *others]).encode())

    def exported(*flags: str) -> set[str]:
        ran = run("export", *flags, store_flag(tmp_path))
        assert ran.returncode == 0
        return {json.loads(line)["sid"] for line in ran.stdout.splitlines()}

    five = {row["sid"] for row in FIVE}
    assert exported() == five | {row["sid"] for row in others}
    service = ["--service", PARENTS.service_sid]
    assert exported(*service) == five | {others[1]["sid"]}
    assert exported(*service, "--session", PARENTS.session_sid) == five
    assert exported(*service, "--session", new_sid("KC")) == set()
    for flags in (["--session", PARENTS.session_sid], ["--service", "KS1"]):
        assert run("export", *flags, store_flag(tmp_path)).returncode == 2


def test_export_keeps_microseconds(tmp_path: Path) -> None:
    fine = new_interaction(PARENTS, NOON_US + 123_456)
    text = lines([to_json(fine, BASE_URL, fraction=True)])
    run("import", "-", store_flag(tmp_path), stdin=text.encode())
    assert json.loads(run("export", store_flag(tmp_path)).stdout) == json.loads(text)


def test_export_creates_no_store(tmp_path: Path) -> None:
    ran = run("export", store_flag(tmp_path))
    assert ran.returncode == 1
    assert b"can't be opened" in ran.stderr
    assert not os.listdir(tmp_path)


def write_many(file: Path, count: int, form: str) -> None:
    """Write `count` Interactions, a thousand in a Session, as JSON lines or as one list page.

    Each has some 5 kB, so that few rows fill the memory.
    """
    template, sid = json.dumps({**FIVE[0], "data": "x" * 4_000}), str(FIVE[0]["sid"])
    with file.open("w") as out:
        out.write('{"interactions": [' if form == "page" else "")
        for number in range(count):
            resource = template.replace(sid, f"KI{number:032x}")
            resource = resource.replace(PARENTS.session_sid, f"KC{number // 1000:032x}")
            moment = timestamps.text(NOON_US + number * SECOND_US)
            resource = resource.replace("2026-02-14T12:00:00Z", moment)
            comma = "," if number < count - 1 else ""
            out.write(resource + (comma if form == "page" else "") + "\n")
        out.write("]}" if form == "page" else "")


@pytest.mark.parametrize("form", ["lines", "page"])
def test_ten_times_the_interactions_take_no_more_memory(tmp_path: Path, form: str) -> None:
    peaks: dict[str, list[float]] = {"import": [], "export": []}
    for count in (2_000, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        file = folder / "many.json"
        write_many(file, count, form)
        with file.open("rb") as many:
            imported = measured(
                "import", "-", store_flag(folder), cwd=folder, feed=partial(copyfileobj, many)
            )
        assert imported.output.read_text().startswith(f"{count:,} created")
        exported = measured("export", store_flag(folder), cwd=folder)
        with exported.output.open() as written:
            sids = {json.loads(line)["sid"] for line in written}
        assert len(sids) == count
        assert (imported.status, exported.status) == (0, 0)
        peaks["import"].append(imported.peak_mib)
        peaks["export"].append(exported.peak_mib)
    for small, large in peaks.values():
        # SQLite's caches grow up to 16 MiB for each connection, however large the data is.
        assert large < small + 40, peaks


def test_two_imports_at_once_lose_nothing(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / f"{name}.jsonl")
        sessions = [new_session(new_parents(), 500) for _ in range(4)]
        files[-1].write_text(lines([to_json(i, BASE_URL) for made in sessions for i in made]))
    processes = [
        subprocess.Popen([*COMMAND, "import", str(file), store_flag(tmp_path)]) for file in files
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    with sqlite3.connect(tmp_path / "interactions.db") as db:
        assert db.execute("SELECT count(*) FROM interactions").fetchone() == (4000,)
    db.close()
