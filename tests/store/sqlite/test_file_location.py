"""Valid and invalid paths and file systems of an SQLite store."""

import os
import stat
from pathlib import Path

import pytest
from testing.log_lines import logged
from testing.process import run, served
from testing.small_disk import mounted_file, small_disk

from interaction_svc.store import NotAStoreError, StoreError, StoreUnavailableError, StoreURLError
from interaction_svc.store.factory import (
    backup_store,
    check_store,
    check_url,
    open_store,
    store_warnings,
)
from interaction_svc.store.sqlite import file_location
from interaction_svc.store.sqlite.file_location import parse_mount
from tests.store.sqlite.files import url


@pytest.mark.parametrize("around", ["\n", " ", "\t", "\r\n", "\u00a0"])
def test_white_space_around_a_url_is_removed(around: str) -> None:
    assert check_url(f"{around}sqlite:///log.db{around}") == Path("log.db")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("a\nb.db", r"has the character '\\n'"),
        ("a\0b.db", r"has the character '\\x00'"),
        ("a\x1b[2Jb.db", r"has the character '\\x1b'"),
        ("log.db\u200b", r"has the character '\\u200b'"),
        ("d\ufeff/log.db", r"has the character '\\ufeff'"),
        ("\udcff.db", r"has the character '\\udcff'"),
        (" log.db", "has white space at the start or the end of a name"),
        ("d /log.db", "has white space at the start or the end of a name"),
        ("~/x.db", "starts with ~, which is not expanded"),
        ("~bob/x.db", "starts with ~, which is not expanded"),
        ("my%20log.db", "has %20 in it, and percent-encoding is not decoded"),
        ("file:x.db", "starts with file:"),
        ("file::memory:", "starts with file:"),
        ("x.db?mode=ro", r"has a \?, but there are no options"),
        ("x.db#today", "has a #, but there are no options"),
        (":memory:", "names no file"),
        ("d/:memory:", "names no file"),
        ("", "names no file"),
        (".", "names no file"),
        ("d/..", "names no file"),
        ("d/", "names no file"),
    ],
)
def test_a_path_that_may_be_mistyped_is_refused_with_the_reason(path: str, problem: str) -> None:
    with pytest.raises(StoreURLError, match=f"{problem}.*sqlite:///relative") as raised:
        check_url(f"sqlite:///{path}")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["my log.db", "100%.db", "größe.db", "a&b=c;d.db", "-x.db"])
async def test_unusual_file_names_are_accepted(tmp_path: Path, name: str) -> None:
    await (await open_store(f"sqlite:///{tmp_path}/{name}")).close()
    assert os.listdir(tmp_path) == [name]


def test_a_line_break_at_the_end_of_a_url_is_removed(tmp_path: Path) -> None:
    for given in (f"{url(tmp_path)}\n", url(tmp_path)):
        created = run("keys", "create", "--role", "admin", INTERACTION_SVC_STORE=given)
        assert created.returncode == 0, created.stderr
    assert os.listdir(tmp_path) == ["interactions.db"]


async def test_only_regular_files_are_accepted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place, problem in (
        (tmp_path, "it is a directory: name a file in it"),
        (tmp_path / "fifo", "it is not a regular file"),
        ("/dev/null", "it is not a regular file"),
    ):
        for call in (open_store(f"sqlite:///{place}"), check_store(f"sqlite:///{place}")):
            with pytest.raises(NotAStoreError, match=problem):
                await call


async def test_a_file_with_hard_links_is_refused(tmp_path: Path) -> None:
    await (await open_store(url(tmp_path))).close()
    os.link(tmp_path / "interactions.db", tmp_path / "other.db")
    for call in (open_store(url(tmp_path)), check_store(f"sqlite:///{tmp_path}/other.db")):
        with pytest.raises(StoreUnavailableError, match=r"2 names .*find -samefile"):
            await call
    with pytest.raises(StoreUnavailableError, match="2 names"):
        backup_store(url(tmp_path), tmp_path / "copy.db", lambda *_: None)
    (tmp_path / "other.db").unlink()
    await (await open_store(url(tmp_path))).close()


async def test_a_mounted_file_is_refused(tmp_path: Path) -> None:
    await (await open_store(url(tmp_path))).close()
    mounted = tmp_path / "in a container" / "log.db"
    mounted.parent.mkdir()
    with (
        mounted_file(tmp_path / "interactions.db", mounted),
        pytest.raises(StoreUnavailableError, match="mount its directory instead"),
    ):
        await open_store(f"sqlite:///{mounted}")
    assert os.listdir(mounted.parent) == ["log.db"]


async def test_a_symlink_is_resolved_for_the_file_and_its_wal(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "interactions.db").symlink_to("disk/log.db")
    with pytest.raises(StoreError):  # the target of a broken symlink is not created
        await open_store(url(tmp_path))
    await (await open_store(f"sqlite:///{tmp_path}/disk/log.db")).close()
    store = await open_store(url(tmp_path))
    assert sorted(os.listdir(tmp_path / "disk")) == ["log.db", "log.db-shm", "log.db-wal"]
    assert sorted(os.listdir(tmp_path)) == ["disk", "interactions.db"]
    await store.close()


def test_mountinfo_lines_are_parsed() -> None:
    line = r"36 35 98:0 / /mnt/my\040disk rw,noatime shared:1 - nfs4 host:/export rw"
    assert parse_mount(line) == ("/mnt/my disk", "nfs4")
    assert parse_mount("21 1 8:1 /a /data rw - ext4 /dev/sda1 rw") == ("/data", "ext4")


def test_a_store_on_a_network_file_system_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test can't mount one, so it replaces the list of mounts.
    mounts = tmp_path / "mountinfo"
    for kind, expected in (("nfs4", 1), ("cifs", 1), ("fuse.sshfs", 1), ("ext4", 0), ("xfs", 0)):
        mounts.write_text(f"1 0 8:1 / / rw - ext4 d rw\n2 1 0:1 / {tmp_path} rw - {kind} d rw\n")
        monkeypatch.setattr(file_location, "_MOUNTS", mounts)
        warnings = store_warnings(url(tmp_path))
        assert len(warnings) == expected
        assert all(f"a network file system ({kind})" in warning for warning in warnings)


def test_a_store_in_memory_is_warned_about(tmp_path: Path) -> None:
    with small_disk(tmp_path / "memory", "1m") as disk:
        assert "in memory (tmpfs)" in store_warnings(url(disk))[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_file_that_others_may_open_is_warned_about_once(tmp_path: Path, workers: str) -> None:
    file = tmp_path / "interactions.db"
    for mode, expected in ((None, 0), (0o644, 1)):
        if mode is not None:
            file.chmod(mode)
        with served(tmp_path, "--workers", workers) as server:
            event = f"other users may open the store: run chmod 600 {file}"
            assert len(logged(server, event)) == expected
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o177])
async def test_files_are_private_to_their_owner_under_any_umask(tmp_path: Path, umask: int) -> None:
    def modes() -> dict[str, str]:
        return {file.name: stat.filemode(file.stat().st_mode) for file in tmp_path.iterdir()}

    seen: dict[str, str] = {}
    before = os.umask(umask)
    try:
        store = await open_store(url(tmp_path))
        backup_store(url(tmp_path), tmp_path / "copy.db", lambda *_: seen.update(modes()))
        seen |= modes()
        await store.close()
    finally:
        os.umask(before)
    names = ("interactions.db", "interactions.db-wal", "interactions.db-shm")
    assert seen == dict.fromkeys((*names, "copy.db", "copy.db.part"), "-rw-------")
