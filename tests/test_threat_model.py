"""The threat model: each promise names a test, and each test that it names is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "threat-model.md"
_NAME = re.compile(r"`([\w/]+\.py)::(\w+)`")


def promises() -> dict[str, list[tuple[str, str]]]:
    """Return the tests, by file and name, of each row of the promises."""
    text = DOCUMENT.read_text().partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return {
        row.split("|")[1].strip(): _NAME.findall(row.rpartition("|")[0].rpartition("|")[2])
        for row in rows
        if not row.startswith(("| promise |", "|---|"))
    }


def test_each_promise_names_tests_that_are_there() -> None:
    found = promises()
    assert len(found) > 50
    assert [promise for promise, tests in found.items() if not tests] == []
    sources: dict[str, str] = {}
    for tests in found.values():
        for file, name in tests:
            source = sources.setdefault(file, (TESTS / file).read_text())
            assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE), f"{file}::{name}"
