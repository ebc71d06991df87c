"""Test that all Python packages are pinned with hashes, and installed only with them."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from testing.paths import ROOT

from tests.deploy.manifests import dockerfile

FOLDER = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUNTIME = [*PROJECT["project"]["dependencies"], *EXTRAS["postgres"]]
WANTED = {
    "build.txt": [*PROJECT["build-system"]["requires"], "editables"],
    "runtime.txt": RUNTIME,
    "dev.txt": [*RUNTIME, *EXTRAS["bench"], *EXTRAS["dev"]],
    "uv.txt": ["uv"],
}
WHEEL = "example-1.0-py3-none-any.whl"


def pins_of(file: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each package of a file, its version, and its hashes."""
    joined = (FOLDER / file).read_text().replace("\\\n", " ")
    for line in joined.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        pinned = Requirement(requirement)
        (version,) = pinned.specifier
        assert version.operator == "==", line
        yield canonicalize_name(pinned.name), version.version, hashes


def test_there_is_a_file_for_each_set() -> None:
    assert {path.name for path in FOLDER.glob("*.txt")} == set(WANTED)


@pytest.mark.parametrize("file", WANTED)
def test_every_package_has_hashes(file: str) -> None:
    for name, _, hashes in pins_of(file):
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), name


@pytest.mark.parametrize("file", WANTED)
def test_the_pins_meet_what_the_project_requires(file: str) -> None:
    pins = {name: version for name, version, _ in pins_of(file)}
    for wanted in map(Requirement, WANTED[file]):
        version = pins.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted} is not pinned: run make pins"
        assert wanted.specifier.contains(version), f"{wanted} is not {version}: run make pins"


def test_all_files_pin_the_same_version_of_a_package() -> None:
    versions: dict[str, set[str]] = {}
    for file in WANTED:
        for name, version, _ in pins_of(file):
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_makefile_and_the_image_install_with_hashes_only() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = [*re.split(r"\s&&\s", " && ".join(dockerfile("RUN"))), *makefile.splitlines()]
    installs = [one for one in commands if re.search(r"pip (install|wheel)\b", one)]
    assert len(installs) == 6
    for command in installs:
        assert ("--require-hashes" in command) != ("--no-deps" in command), command
        assert "--no-deps" not in command or "dist/" in command or "--no-build-" in command


@pytest.mark.parametrize("is_right", [True, False])
def test_a_package_with_another_hash_is_not_installed(tmp_path: Path, is_right: bool) -> None:
    with ZipFile(tmp_path / WHEEL, "w") as wheel:
        info = "example-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    hashed = subprocess.run(
        [sys.executable, "-m", "pip", "hash", tmp_path / WHEEL],
        capture_output=True, text=True, check=True,
    ).stdout.split("--hash=")[1].strip()  # fmt: skip
    digest = hashed if is_right else "sha256:" + "0" * 64
    (tmp_path / "pins.txt").write_text(f"example==1.0 --hash={digest}\n")
    (flags,) = re.findall(
        r"^PIP_INSTALL  = pip (.*) \$\(BINARY\)$", (ROOT / "Makefile").read_text(), re.M
    )
    installed = subprocess.run(
        [
            sys.executable, "-m", "pip", *flags.split(), "--no-index", "--find-links", tmp_path,
            "--target", tmp_path / "installed", "-r", tmp_path / "pins.txt",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (installed.returncode == 0) == is_right, installed.stderr
    assert (tmp_path / "installed").exists() == is_right
