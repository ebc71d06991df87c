"""The forms of import files, and bad records in them."""

import asyncio
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testing.resources import FIVE, broken, envelope, lines

from interaction_svc.app.ingest import Ingest
from interaction_svc.transfer import ImportReport, KeyForm, Problem, import_stream
from interaction_svc.transfer import resource_reader as reading_module
from interaction_svc.transfer.resource_reader import read_items

meta_first = {"meta": envelope([])["meta"], "interactions": FIVE}


def dumped(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resource as JSON.stringify writes an instance of the Node SDK."""
    return {camel_case(name): value for name, value in resource.items()}


def camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


FORMS: dict[str, tuple[str, int]] = {
    "one resource": (json.dumps(FIVE[0]), 1),
    "one resource over many lines": (json.dumps(FIVE[0], indent=2), 1),
    "list": (json.dumps(FIVE), 5),
    "list over many lines": (json.dumps(FIVE, indent=2), 5),
    "list with one resource per line": ("[\n" + ",\n".join(map(json.dumps, FIVE)) + "\n]", 5),
    "list page": (json.dumps(envelope(FIVE)), 5),
    "list page over many lines": (json.dumps(envelope(FIVE), indent=4), 5),
    "list page with one resource per line, the first after the bracket": (
        '{"interactions": [' + ",\n".join(map(json.dumps, FIVE)) + "\n]}",
        5,
    ),
    "list page with one resource per line, the last before the bracket": (
        '{"interactions": [\n' + ",\n".join(map(json.dumps, FIVE)) + "]}",
        5,
    ),
    "list page on two lines": (json.dumps(envelope(FIVE[:2])).replace("}, {", "},\n{"), 2),
    "list page with meta first": (json.dumps(meta_first, indent=1), 5),
    "empty list page": (json.dumps(envelope([])), 0),
    "concatenated list pages": (json.dumps(envelope(FIVE[:2]), indent=2) * 2, 4),
    "a compact page, then another over many lines": (
        json.dumps(envelope(FIVE[:2])) + "\n" + json.dumps(envelope(FIVE[2:]), indent=2),
        5,
    ),
    "much white space first": (" \n" * 70_000 + json.dumps(FIVE), 5),
    "list of list pages": (json.dumps([envelope(FIVE[:3]), envelope(FIVE[3:])]), 5),
    "JSON lines": (lines(FIVE), 5),
    "JSON lines with CRLF and empty lines": (lines(FIVE, "\r\n\r\n"), 5),
    "JSON lines without a last newline": (lines(FIVE)[:-1], 5),
    "JSON lines of list pages": (lines([envelope(FIVE[:2]), envelope(FIVE[2:])]), 5),
    "JSON lines of lists": (lines([{}, FIVE])[3:], 5),
    "byte order mark": ("\ufeff" + lines(FIVE), 5),
    "concatenated files with byte order marks": (
        "\ufeff" + lines(FIVE[:3]) + "\ufeff" + lines(FIVE[3:]),
        5,
    ),
    "empty": ("", 0),
    "blank": (" \n\n", 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognized_by_its_content(form: str) -> None:
    text, count = FORMS[form]
    items = list(read_items(io.BytesIO(text.encode())))
    assert [item.problem for item in items] == [""] * count
    if count == 5:
        assert [item.resource for item in items] == FIVE


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("form", ["list over many lines", "JSON lines with CRLF and empty lines"])
def test_utf_16_with_a_byte_order_mark_is_read(form: str, encoding: str) -> None:
    mark = "" if encoding == "utf-16" else "\ufeff"
    text = mark + FORMS[form][0].replace("hello", "naïve 😀" * 20_000)
    items = list(read_items(io.BytesIO(text.encode(encoding))))
    expected = json.loads(json.dumps(FIVE).replace("hello", r"na\u00efve \ud83d\ude00" * 20_000))
    assert [item.resource for item in items] == expected


def test_a_bad_line_of_utf_16_does_not_affect_others() -> None:
    text = ("\ufeff" + lines([FIVE[0]])).encode("utf-16-le")
    text += b'"\0\x00\xd8"\0\n\0' + lines(FIVE[2:]).encode("utf-16-le") + b"{"
    items = list(read_items(io.BytesIO(text)))
    assert [item.resource for item in items if not item.problem] == [FIVE[0], *FIVE[2:]]
    assert [item.place for item in items if item.problem] == ["line 2", "line 6"]


class Case(NamedTuple):
    text: str
    good: int
    problems: list[str]


CASES = {
    "a bad property in JSON lines": Case(
        lines([FIVE[0], broken(type="fax"), FIVE[2]]), 2, ["line 2: type: must be one of"]
    ),
    "a bad property in a list": Case(
        json.dumps([FIVE[0], broken(sid="KI1"), FIVE[2]]), 2, ["index 1: sid: must match ^KI"]
    ),
    "a property that is not a string": Case(
        json.dumps(envelope([broken(data={"body": "x"}), FIVE[2]])), 1, ["index 0: data: must be a"]
    ),
    "a missing property": Case(
        lines([{k: v for k, v in FIVE[0].items() if k != "date_created"}, FIVE[1]]),
        1,
        ["line 1: date_created: is required"],
    ),
    "a leg's property": Case(
        json.dumps([broken(inbound_participant_sid="KP")]),
        0,
        ["index 0: inbound_participant_sid: must match ^KP"],
    ),
    "a broken line": Case(
        lines(FIVE[:2]) + json.dumps(FIVE[2])[:-20] + "\n" + lines(FIVE[3:]),
        4,
        ["line 3: is not valid JSON"],
    ),
    "a broken first line": Case(
        json.dumps(FIVE[0])[:50] + "\n" + lines(FIVE[1:]), 4, ["line 1: is not valid JSON"]
    ),
    "bytes that are not UTF-8": Case(
        lines(FIVE[:1]) + '{"data": "\udcff"}\n' + lines(FIVE[2:]), 4, ["line 2: is not valid JSON"]
    ),
    "a first line broken at a comma": Case(
        '{"sid": "x",\n' + lines(FIVE[1:]), 4, ["line 1: is not valid JSON"]
    ),
    "a bad resource in a list page on one line": Case(
        lines([FIVE[0], envelope([FIVE[1], broken(type="fax")])]), 2, ["line 2, index 1: type:"]
    ),
    "a truncated list": Case(
        json.dumps(FIVE)[:-30], 4, ["index 4: is not valid JSON; nothing after it is read"]
    ),
    "a truncated list page": Case(
        json.dumps(envelope(FIVE), indent=1)[: -len(json.dumps(FIVE[4]))],
        4,
        ["index 4: is not valid JSON; nothing after it is read"],
    ),
    "no JSON at all": Case("hello", 0, ["index 0: is not valid JSON"]),
    "values that are not objects": Case(
        json.dumps([1, FIVE[0], None, "x"]),
        1,
        ["index 0: is not a JSON object"] + [f"index {n}: is not a JSON object" for n in (2, 3)],
    ),
    "another object": Case('{"hello": {"a": [1]}}', 0, ["index 0: sid: is required"]),
    "interactions that are not a list": Case(
        '{"interactions": {}}', 0, ["index 0: sid: is required"]
    ),
    "deep in a line": Case(
        lines(FIVE[:3]) + "[" * 900 + json.dumps(FIVE[3]) + "]" * 900 + "\n", 4, []
    ),
    "deep": Case("[" * 5000, 0, ["index 0: lies too deep"]),
    "deep inside": Case('{"x": ' + "[" * 5000 + "]" * 5000 + "," + json.dumps(FIVE[0])[1:], 1, []),
    "a first line that is not JSON": Case(
        "Exported 5:\n" + lines(FIVE), 5, ["line 1: is not valid JSON"]
    ),
    "a long first line and a bad second one": Case(
        lines([broken(data="x" * 200_000)]) + "x\n" + lines(FIVE[2:]),
        4,
        ["line 2: is not valid JSON"],
    ),
    "camelCase keys": Case(json.dumps([dumped(resource) for resource in FIVE]), 5, []),
    "both spellings of a key": Case(
        lines([broken(sessionSid=FIVE[1]["session_sid"]), broken(accountSid=None), FIVE[2]]), 3, []
    ),
    "both spellings of a key with different values": Case(
        lines([FIVE[0], broken(sessionSid="KC1"), FIVE[2]]),
        2,
        ["line 2: session_sid: sessionSid and session_sid have different values"],
    ),
    "times as Python prints them": Case(
        lines([broken(date_created="2026-02-14 12:00:00+00:00", _version=None, _solution={})]),
        1,
        [],
    ),
    "times in small letters": Case(lines([broken(date_created="2026-02-14t12:00:00z")]), 1, []),
    "times without an offset": Case(
        lines([broken(date_created="2026-02-14 12:00:00")]),
        0,
        ["index 0: date_created: is not a time without Z or an offset from GMT; write YYYY"],
    ),
    "times as numbers": Case(
        lines([broken(date_created=1771070400000), broken(date_updated=1.5)]),
        0,
        [
            "line 1: date_created: must be a text and not a number, which may count seconds,",
            "line 2: date_updated: must be a text and not a number",
        ],
    ),
    "a list under another name": Case(json.dumps({"rows": FIVE}), 0, ["index 0: sid: is required"]),
    "the same twice": Case(lines([FIVE[0], FIVE[0]]), 2, []),
}


def import_text(text: str, ingest: Ingest | None = None) -> tuple[ImportReport, list[str]]:
    report, problems = ImportReport(), list[Problem]()
    stream = io.BytesIO(text.encode("utf-8", "surrogateescape"))
    asyncio.run(import_stream(stream, ingest, report, problems.append))
    assert report.rejected == len(problems)
    return report, [str(problem) for problem in problems]


@pytest.mark.parametrize("name", CASES)
def test_bad_records_are_reported_and_good_ones_counted(name: str) -> None:
    text, good, expected = CASES[name]
    report, problems = import_text(text)
    assert report.checked == good
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(beginning)


def test_key_forms_and_ignored_keys_are_counted() -> None:
    more = {f"key{number:04}": number for number in range(300)}
    for made in (lines, json.dumps):
        report, _ = import_text(
            made([
                FIVE[0], dumped(FIVE[1]), dumped(FIVE[2]), {**FIVE[3], **dumped(FIVE[3])},
                broken(_version=None, _context={"a": [1]}), broken(_version="x"),
                broken(**{"x" * 1000: 1}), broken(type="fax", **more),
            ])
        )  # fmt: skip
        assert report.key_forms == {
            KeyForm.SNAKE_CASE: 5, KeyForm.CAMEL_CASE: 2, KeyForm.MIXED: 1,
        }  # fmt: skip
        assert report.ignored_keys["_version"] == 2
        assert report.ignored_keys["_context"] == report.ignored_keys["x" * 64] == 1
        assert len(report.ignored_keys) == 20
        assert report.has_more_ignored_keys


def test_a_line_that_is_too_long_does_not_affect_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "MAX_LINE_BYTES", 2000)
    text = lines([FIVE[0], broken(data="x" * 9000), FIVE[2]])
    report, problems = import_text(text)
    assert report.checked == 2
    assert problems == ["line 2: is longer than 2,000 bytes"]


def test_a_text_that_is_too_long_ends_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "MAX_LINE_BYTES", 200_000)
    text = json.dumps([FIVE[0], broken(data="x" * 500_000), FIVE[2]])
    report, problems = import_text(text)
    assert report.checked == 1
    assert problems == ["index 1: a text is longer than 200,000 bytes; nothing after it is read"]


@given(st.binary(max_size=300) | st.text('[]{},:"\\ \nabinteractions123').map(str.encode))
def test_random_bytes_are_read_or_reported(data: bytes) -> None:
    report, problems = ImportReport(), list[Problem]()
    asyncio.run(import_stream(io.BytesIO(data), None, report, problems.append))
    assert report.checked == 0
