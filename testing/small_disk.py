"""Small disks, for tests of full and read-only disks. Mounting needs root, or sudo."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount an empty disk of this size, such as 3m, at `folder` until the end of the block."""
    folder.mkdir()
    _as_root("mount", "-t", "tmpfs", "-o", f"size={size},uid={os.getuid()}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _as_root("umount", str(folder))


def change_disk(folder: Path, options: str) -> None:
    """Change the mount options of a disk, such as size=20m or ro."""
    _as_root("mount", "-o", f"remount,{options}", str(folder))


@contextmanager
def mounted_file(file: Path, at: Path) -> Iterator[None]:
    """Bind mount a file at `at`, as container runtimes do, until the end of the block."""
    at.touch()
    _as_root("mount", "--bind", str(file), str(at))
    try:
        yield
    finally:
        _as_root("umount", str(at))


def _as_root(*command: str) -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*sudo, *command], check=True)
