"""Checks of a store's path and of its file system."""

import os
import re
import stat
from pathlib import Path

from interaction_svc.store.errors import NotAStoreError, StoreUnavailableError

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK_TYPES = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|gfs2?|glusterfs|lustre|beegfs\w*|gpfs|ocfs2|orangefs"
    r"|fuse\.(sshfs|rclone|s3fs|gcsfuse|glusterfs|ceph\w*|davfs|smb\w*)"
)


def path_problem(path: str) -> str | None:
    """Return why the path of a store's URL is refused; None if it is valid.

    SQLite interprets some names specially and not as a file. A mistyped name would create a new,
    empty store.
    """
    parts = path.split("/")
    bad = next((char for char in path if not char.isprintable()), "")
    option = re.search(r"[?#]", path)
    escape = re.search(r"%[0-9A-Fa-f]{2}", path)
    problems = (
        (path.startswith("file:"), "starts with file:, and SQLite's own URIs are not taken"),
        (option, f"has a {option and option[0]}, but there are no options"),
        (bad, f"has the character {bad!a} in it"),
        (
            any(part != part.strip() for part in parts),
            "has white space at the start or the end of a name",
        ),
        (parts[0].startswith("~"), "starts with ~, which is not expanded: write the whole path"),
        (
            escape,
            f"has {escape and escape[0]} in it, and percent-encoding is not decoded:"
            " write the character",
        ),
        (parts[-1] in ("", ".", "..", ":memory:"), "names no file"),
    )
    return next((problem for found, problem in problems if found), None)


def check_location(path: Path) -> None:
    """Raise StoreError if SQLite can't store data safely at the path.

    The file need not exist.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise NotAStoreError("it is a directory: name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise NotAStoreError("it is not a regular file")
    # SQLite derives the name of the write-ahead log from the path. Two servers that open one file
    # under different names would use two logs, and overwrite each other's pages.
    if found.st_nlink > 1:
        raise StoreUnavailableError(
            f"it has {found.st_nlink} names (hard links), and SQLite would use a write-ahead log"
            f" for each: remove the others; find -samefile {path.name} finds them"
        )
    real = os.path.realpath(path)
    if any(point == real for point, _ in _mounts()):
        raise StoreUnavailableError(
            "the file itself is mounted, and its write-ahead log would be elsewhere: mount its"
            " directory instead"
        )


def identity(path: str | Path) -> tuple[int, int]:
    """Return the device and the inode of the file at a path; (0, 0) if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def location_warnings(path: Path) -> list[str]:
    """Return advice to the operator about a store's location, one sentence each."""
    found = []
    loose = [
        str(file)
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm"))
        if file.exists() and file.stat().st_mode & 0o077
    ]
    if loose:
        found.append(f"other users may open the store: run chmod 600 {' '.join(loose)}")
    kind = _type_of_file_system(os.path.realpath(path))
    if _NETWORK_TYPES.fullmatch(kind):
        found.append(
            f"the store is on a network file system ({kind}), where the locks of SQLite are not"
            " reliable: move it to a local disk, and never open it from two machines"
        )
    elif kind in ("tmpfs", "ramfs"):
        found.append(
            f"the store is in memory ({kind}), and gone when the machine stops:"
            " move it to a disk unless it is a trial"
        )
    return found


def _type_of_file_system(real: str) -> str:
    """Return the type of the file's file system; "" if unknown."""
    kind, longest = "", -1
    for point, type_ in _mounts():
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # a later mount hides an earlier one at the same point
            kind, longest = type_, len(point)
    return kind


def _mounts() -> list[tuple[str, str]]:
    """Return the directory and type of each mount; an empty list if the system has no mountinfo."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return []
    return [parse_mount(os.fsdecode(line)) for line in lines]


def parse_mount(line: str) -> tuple[str, str]:
    """Return the directory and the type in a line of mountinfo; see proc(5)."""
    before, _, after = line.partition(" - ")
    point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
    return point, after.split(" ")[0]
