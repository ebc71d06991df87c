"""Imports of files that are truncated, corrupted, of another format, or endless."""

import asyncio
import bz2
import gzip
import io
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from testing.mutations import mutated
from testing.paths import SAMPLES
from testing.peak_memory import measured
from testing.process import run
from testing.resources import BASE_URL, FIVE, broken, envelope, lines

from interaction_svc.domain.units import MIB
from interaction_svc.transfer import ImportReport, Problem, import_stream
from interaction_svc.transfer import resource_reader as reading_module

SAMPLE_FILES = sorted(SAMPLES.glob("*.json*"))
PLACE = re.compile(r"(line [1-9]\d*(, index \d+)?|index \d+): \S")
PEAK_MIB = 150
"""The maximum memory of an import: some 75 MiB of the process before it reads, and one or two
copies of a line or a text of 16 MiB."""


def imported(data: bytes) -> tuple[ImportReport, list[str]]:
    """Import in a dry run, and return the report and the problems with their places."""
    report, problems = ImportReport(), list[Problem]()
    asyncio.run(import_stream(io.BytesIO(data), None, report, problems.append))
    assert report.rejected == len(problems)
    for problem in problems:
        assert PLACE.match(str(problem)), problem
        assert len(str(problem)) < 500
    return report, [str(problem) for problem in problems]


TWO = [{**resource, "data": '{"body":"naïve “😀” \\u0000"}'} for resource in FIVE[:2]]
FORMS = {
    "one resource": json.dumps(TWO[0], ensure_ascii=False),
    "list": json.dumps(TWO, ensure_ascii=False),
    "list page": json.dumps(envelope(TWO), ensure_ascii=False, indent=1),
    "JSON lines": lines(TWO),
    "JSON lines of lists": lines([[TWO[0]], [TWO[1]]]),
    "concatenated documents": json.dumps(TWO[0], indent=1) + json.dumps(TWO[1], indent=1),
}


def ends_of_resources(data: bytes) -> list[int]:
    """Return the ends of the innermost objects."""
    resource = rb'\{[^{}]*"sid"(?:[^{}"]|"(?:\\.|[^"\\])*")*\}'
    return [match.end() for match in re.finditer(resource, data)]


@pytest.mark.parametrize("form", FORMS)
def test_all_complete_records_of_a_truncated_file_are_read(form: str) -> None:
    data = FORMS[form].encode()
    ends = ends_of_resources(data)
    assert len(ends) == imported(data)[0].checked > 0
    for place in range(len(data)):
        report, problems = imported(data[:place])
        # Of a line with a list, either all records are read or none.
        if form == "JSON lines of lists" and place - 1 in ends:
            continue
        assert report.checked == sum(end <= place for end in ends), place
        assert len(problems) <= 1


@cache
def contents(sample: Path) -> bytes:
    return sample.read_bytes()


def cuts(sample: Path) -> Iterator[bytes]:
    data = contents(sample)
    for place in range(0, len(data), max(1, len(data) // 60)):
        yield data[:place]


@pytest.mark.parametrize("sample", SAMPLE_FILES, ids=lambda path: path.name)
def test_a_sample_cut_anywhere_is_read_as_far_as_it_goes(sample: Path) -> None:
    whole = imported(contents(sample))[0].checked
    before = 0
    for cut in cuts(sample):
        report, problems = imported(cut)
        assert before <= report.checked <= whole
        assert len(problems) <= 1
        before = report.checked
    assert before >= whole - whole // 20 - 1  # the last cut removes 1/60 of the file


@pytest.mark.parametrize("sample", SAMPLE_FILES, ids=lambda path: path.name)
@given(seed=st.integers(0, 2**32))
def test_a_mangled_sample_is_read_or_reported(sample: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = contents(sample)
    begin = rng.randrange(len(data))
    part = data[begin : begin + rng.choice([1, 10, 1000])]
    imported(data[:begin] + mutated(rng, part) + data[begin + len(part) :])


@given(seed=st.integers(0, 2**32), form=st.sampled_from(sorted(FORMS)))
def test_any_form_mangled_is_read_or_reported(seed: int, form: str) -> None:
    imported(mutated(random.Random(seed), FORMS[form].encode()))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=10, unique=True), st.integers(0, 2**32))
def test_mangled_lines_do_not_affect_others(places: list[int], seed: int) -> None:
    rng = random.Random(seed)
    (sample,) = (path for path in SAMPLE_FILES if path.suffix == ".jsonl")
    good = contents(sample).splitlines()[:100]
    mangled = list(good)
    for place in set(places) - {0, 1, 2}:  # the first lines decide the form
        mangled[place] = mutated(rng, good[place]).replace(b"\n", b" ")
    report, problems = imported(b"\n".join(mangled))
    assert report.checked >= len(good) - len(places)
    named = {int(problem.split()[1].strip(":,")) - 1 for problem in problems}
    assert named <= set(places)


TEXT = lines([{**resource, "data": "naïve “café”"} for resource in FIVE])
SPELT_OUT = json.dumps([{**FIVE[0], "data": "é"}], ensure_ascii=False)
OTHER_KINDS: dict[str, bytes] = {
    "UTF-16 without a mark": TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "Latin-1": SPELT_OUT.encode("latin-1"),
    "EBCDIC": TEXT.encode("cp037", "replace"),
    "surrogates in UTF-8": SPELT_OUT.encode().replace("é".encode(), b"\xed\xa0\x80"),
    "overlong UTF-8": SPELT_OUT.encode().replace("é".encode(), b"\xc0\xaf"),
    "gzip": gzip.compress(TEXT.encode()),
    "bzip2": bz2.compress(TEXT.encode()),
    "zip": b"PK\x03\x04" + random.Random(1).randbytes(1000),
    "a program": Path(sys.executable).read_bytes()[: 2 * MIB],
    "a database": b"SQLite format 3\0" + bytes(4096),
    "a picture": b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(1000),
    "zeros": bytes(3 * MIB),
    "XML": b"<?xml version='1.0'?><interactions/>",
    "YAML": b"- sid: KI1\n  data: x\n",
    "CSV": b"sid,data\nKI1,x\n",
    "Python": repr(FIVE).encode(),
    "JavaScript": b"[{sid: 'KI1'}]",
    "NaN": b'[{"data": NaN}, {"data": Infinity}]',
}


NAMED_KINDS = {
    "UTF-16 without a mark": "UTF-16 without a byte order mark; write it as UTF-8",
    "UTF-32": "UTF-32; write it as UTF-8",
    "gzip": "compressed by gzip; pipe it: gunzip -c FILE | interaction-svc import -",
    "bzip2": "compressed by bzip2; pipe it",
    "zip": "a ZIP archive; pipe it",
    "a database": "a SQLite database; a store is copied by interaction-svc copy",
}


@pytest.mark.parametrize("kind", NAMED_KINDS)
def test_the_error_for_a_known_format_names_it_with_advice(kind: str) -> None:
    _, problems = imported(OTHER_KINDS[kind])
    assert problems[0].startswith(f"index 0: is not valid JSON, but {NAMED_KINDS[kind]}")


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_files_of_other_formats_are_rejected(kind: str) -> None:
    report, problems = imported(OTHER_KINDS[kind])
    assert report.checked == 0
    assert "is not valid JSON" in problems[0]


NOT_JSON_AT_FIRST = {
    "a comment": (b"// five\n", 5),
    "two marks": (b"\xef\xbb\xbf\xef\xbb\xbf", 5),
    "a terminal's colours": (b"\x1b[32m", 4),
    "no UTF-8": (b"\xff\n", 5),
    "a NUL": (b"\0\n", 5),
}


@pytest.mark.parametrize("beginning", NOT_JSON_AT_FIRST)
def test_a_bad_first_line_does_not_affect_others(beginning: str) -> None:
    data, good = NOT_JSON_AT_FIRST[beginning]
    report, problems = imported(data + TEXT.encode())
    assert report.checked == good
    assert all(problem.startswith("line 1: is not valid JSON") for problem in problems)
    assert len(problems) == (beginning != "two marks")


def with_value(value: str) -> dict[str, str]:
    """Return files in two forms: a resource with this JSON value between two good ones."""
    odd = json.dumps(FIVE[1])[:-1] + f', "data": {value}, "more": {value}}}'
    first, last = json.dumps(FIVE[0]), json.dumps(FIVE[2])
    return {"lines": f"{first}\n{odd}\n{last}\n", "list": f"[{first}, {odd}, {last}]"}


VALUES = {
    "a huge integer": "9" * 100_000,
    "a huge negative integer": "-" + "9" * 5000,
    "an integer beyond 64 bits": str(2**64),
    "a huge exponent": "1e999999999",
    "a tiny exponent": "1e-999999999",
    "many digits": "0." + "3" * 100_000,
    "100,000 levels of lists": "[" * 100_000 + "]" * 100_000,
    "100,000 levels of objects": '{"a":' * 100_000 + "0" + "}" * 100_000,
    "lists without an end": "[" * 100_000,
    "objects without an end": '{"interactions":' * 100_000,
    "an invalid number": "01",
    "an invalid escape": r'"\x41"',
    "a control character": '"\x01"',
    "a NUL": '"\0"',
}


VALID_JSON = {
    "a tiny exponent",
    "many digits",
    "100,000 levels of lists",
    "100,000 levels of objects",
}
"""The values that the parser of documents accepts, so that the rest of the document is read."""


@pytest.mark.parametrize("name", VALUES)
def test_odd_values_affect_no_other_line_and_nothing_before_them(name: str) -> None:
    for form, text in with_value(VALUES[name]).items():
        report, problems = imported(text.encode())
        assert len(problems) == 1
        if form == "lines":
            assert report.checked == 2
            assert problems[0].startswith("line 2: ")
        else:
            assert report.checked == (2 if name in VALID_JSON else 1)
            assert problems[0].startswith("index 1: ")


def test_the_last_of_duplicate_keys_counts_in_every_form() -> None:
    for value, good in (('"last"', True), ("1", False)):
        for text in with_value(value).values():
            report, problems = imported(text.encode())
            assert report.checked == 2 + good
            assert len(problems) == (not good)


def test_deep_nesting_is_refused_in_every_form() -> None:
    for opening in ("[", '{"a":', '{"interactions":[', '[{"interactions":'):
        for good, text in (
            (0, opening * 100_000),
            (3, lines(FIVE[:3]) + opening * 100_000 + "\n"),
        ):
            report, problems = imported(text.encode())
            assert report.checked == good
            assert len(problems) == 1


def endless(piece: bytes, begin: bytes = b"", most: int = 100 * MIB) -> Callable[[Any], None]:
    """Return a function that writes `piece` repeatedly, until the reader stops or `most` bytes."""
    piece *= max(1, 65_536 // len(piece))

    def feed(stream: Any) -> None:
        stream.write(begin)
        for _ in range(most // len(piece)):
            stream.write(piece)

    return feed


THREE = lines(FIVE[:3]).encode()
ENDLESS: dict[str, tuple[Callable[[Any], None], int]] = {
    "zeros": (endless(b"\0"), 0),
    "brackets": (endless(b"["), 0),
    "a text": (endless(b"x", b'[{"data": "'), 0),
    "a text after good ones": (endless(b"x", orjson.dumps(FIVE[:3])[:-1] + b', {"data": "'), 3),
    "a key": (endless(b"k", b'[{"'), 0),
    "white space": (endless(b" \n"), 0),
    "lists that are skipped": (endless(b"[],", b'[{"x": [', 10 * MIB), 0),
    "a line after good ones": (endless(b"x", THREE + b'{"data": "'), 3),
    "zeros after good lines": (endless(b"\0", THREE), 3),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_input_uses_bounded_memory(tmp_path: Path, name: str) -> None:
    feed, good = ENDLESS[name]
    ran = measured("import", "--dry-run", "-", feed=feed, cwd=tmp_path)
    assert ran.status == 1
    assert ran.output.read_text() == f"{good:,} good, 1 rejected\n"
    messages = ran.messages.read_text()
    assert PLACE.match(messages.removeprefix("-: "))
    assert "Traceback" not in messages
    assert ran.peak_mib < PEAK_MIB


@pytest.mark.parametrize("piece", ["1", r"\u0041", "é", r"\\"])
def test_an_endless_value_is_rejected(monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    monkeypatch.setattr(reading_module, "MAX_LINE_BYTES", MIB)
    quote = "" if piece == "1" else '"'
    report, problems = imported(
        f'[{json.dumps(FIVE[0])}, {{"data": {quote}{piece * 2 * MIB}'.encode()
    )
    assert report.checked == 1
    assert problems == ["index 1: a text is longer than 1,048,576 bytes; nothing after it is read"]


def test_an_endless_device_is_rejected(tmp_path: Path) -> None:
    ran = run("import", "/dev/zero", "--dry-run", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (1, b"0 good, 1 rejected\n")
    assert ran.stderr.startswith(b"/dev/zero: index 0: is not valid JSON")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    ran = run("import", str(tmp_path), cwd=tmp_path)
    assert ran.returncode == 2
    assert b"is not a file" in ran.stderr


def test_valid_records_of_bad_files_are_kept(tmp_path: Path) -> None:
    files: list[str] = []
    for number, data in enumerate(
        [
            lines([FIVE[0], broken(type="fax")]).encode() + b"\0\xff{",
            json.dumps(FIVE[1:4]).encode()[:-20],
            *OTHER_KINDS.values(),
            b"",
            b"\xef\xbb\xbf" + json.dumps(FIVE[4]).encode(),
        ]
    ):
        file = tmp_path / f"{number}.json"
        file.write_bytes(data)
        files.append(str(file))
    store = f"--store=sqlite:///{tmp_path / 'interactions.db'}"
    ran = run("import", *files, store)
    assert ran.returncode == 1
    assert b"Traceback" not in ran.stderr
    assert ran.stdout.startswith(b"4 created, ")
    reported = ran.stderr.decode().splitlines()
    for name in files[: 2 + len(OTHER_KINDS)]:
        assert any(line.startswith(f"{name}: ") for line in reported), name
    exported = [json.loads(line)["sid"] for line in run("export", store).stdout.splitlines()]
    assert sorted(exported) == sorted(str(FIVE[n]["sid"]) for n in (0, 1, 2, 4))


def test_all_valid_characters_are_imported_and_exported_unchanged(tmp_path: Path) -> None:
    odd = "\0\x01\x1f\x7f\x85\u2028\ufffe\uffff\U0010ffff" + "[" * 100_000
    store = f"--store=sqlite:///{tmp_path / 'interactions.db'}"
    given_lines = lines([broken(data=odd, url=f"{BASE_URL}/x")]).encode()
    assert run("import", "-", store, stdin=given_lines).returncode == 0
    assert json.loads(run("export", store).stdout)["data"] == odd
