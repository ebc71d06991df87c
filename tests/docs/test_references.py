"""Test that all files, tests, settings, flags, metrics and links in the documentation exist."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click
import pytest
from typer.main import get_command

from interaction_svc.cli import app
from interaction_svc.runtime.settings import Settings
from tests.docs.pages import PAGES, ROOT

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
TEXTS = [*PAGES, *(str(path.relative_to(ROOT)) for path in DECISIONS)]
FOLDERS_OF_FILES = (ROOT, ROOT / "src" / "interaction_svc", ROOT / "tests", ROOT / "bench")
"""Folders that a file name on a page may be relative to."""
OF_READERS = {"client.py", ".build/bench/"}
"""Files that a reader creates."""
FLAGS_OF_OTHERS = {"--help", "--page-size"}
"""Flags that Typer adds to every command, and flags of the example clients."""

_BACKTICKED = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"[\w./-]+\.(py|proto|md|mk|c|mjs)|[\w.-]+(/[\w.-]+)*/")
_TEST = re.compile(r"([\w/.-]+\.py)::(\w+)(?:::(\w+))?")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def named_in(text: str) -> Iterator[str]:
    """Yield the texts in backticks outside code blocks."""
    without_blocks = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from _BACKTICKED.findall(without_blocks)


def is_file(name: str, page: Path) -> bool:
    """Return whether a file exists: in one of the folders, or in any folder if it names none."""
    if name in OF_READERS:
        return True
    folders = [*FOLDERS_OF_FILES, page.parent]
    if any((folder / name).exists() for folder in folders):
        return True
    folders_of_protos = ("protos", "protos-internal", "third_party")
    within = (ROOT / "src", *(ROOT / folder for folder in folders_of_protos))
    return "/" not in name and any(any(folder.rglob(name)) for folder in within)


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Return the flags of all commands."""
    found = set(FLAGS_OF_OTHERS)
    waiting = [get_command(app)]
    while waiting:
        command = waiting.pop()
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
        waiting += getattr(command, "commands", {}).values()
    return found


def commands() -> set[str]:
    return set(cast(click.Group, get_command(app)).commands)


def make_targets() -> set[str]:
    files = [ROOT / "Makefile", *ROOT.glob("*/*.mk")]
    return {
        target
        for file in files
        for target in re.findall(r"^([a-z-]+):", file.read_text(), re.MULTILINE)
    }


def metric_names() -> set[str]:
    """Return the names of all metrics in the source code."""
    files = (ROOT / "src" / "interaction_svc").rglob("*metrics.py")
    source = "".join(file.read_text() for file in files)
    found = re.findall(r'(Counter|Gauge|Histogram|Info)\(\s*"(interaction_svc_\w+)"', source)
    ends = {"Counter": "_total", "Info": "_info"}
    return {name.removesuffix(ends.get(kind, "")) + ends.get(kind, "") for kind, name in found}


@pytest.mark.parametrize("page", TEXTS)
def test_files_and_tests_that_are_named_exist(page: str) -> None:
    missing = []
    for name in named_in((ROOT / page).read_text()):
        if test := _TEST.fullmatch(name):
            file = ROOT / test[1]
            functions = file.read_text() if file.exists() else ""
            if not re.search(rf"def {test[3] or test[2]}\(|class {test[2]}\b", functions):
                missing.append(name)
        elif _FILE.fullmatch(name) and not is_file(name, ROOT / page):
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("page", TEXTS)
def test_settings_flags_and_commands_that_are_named_exist(page: str, flags: set[str]) -> None:
    text = (ROOT / page).read_text()
    settings = {f"INTERACTION_SVC_{name.upper()}" for name in (*Settings.model_fields, "config")}
    missing = [
        name for name in re.findall(r"\bINTERACTION_SVC_[A-Z_]+\b", text) if name not in settings
    ]
    known = commands()
    targets = make_targets()
    for name in named_in(text):
        if name.startswith("--"):
            missing += [name] if re.split("[ =]", name)[0] not in flags else []
        elif made := re.match(r"interaction-svc ([a-z]+)", name):
            missing += [name] if made[1] not in known else []
        elif (made := re.match(r"make ([a-z-]+)", name)) and made[1] not in targets:
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in _LINK.findall((ROOT / page).read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(target)
    assert not broken


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that GitHub creates for the headings of a page."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }


def test_metrics_are_those_of_the_page() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    named = {name for name in named_in(text) if re.fullmatch(r"interaction_svc_[a-z_]+", name)}
    assert named
    assert named <= metric_names()


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = Counter(path.name[:4] for path in DECISIONS)
    assert [number for number, count in numbers.items() if count > 1] == []
    for path in DECISIONS:
        assert path.read_text().startswith(f"# {path.name[:4]}: "), path.name


def test_each_promise_of_the_threat_model_names_a_test() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    promises = text.partition("\n## Promises\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in promises.splitlines() if line[:2] == "| "]
    tests = {promise: named for promise, _, named in rows if promise != "promise"}
    assert len(tests) > 50
    assert [promise for promise, named in tests.items() if not _TEST.search(named)] == []
