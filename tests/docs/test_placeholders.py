"""Test which differences from the documented output are accepted."""

import pytest

from tests.docs.placeholders import Placeholders

KEY, OTHER_KEY = "SK" + "a" * 32, "SK" + "b" * 32


@pytest.mark.parametrize(
    ("documented", "printed"),
    [
        ("on 127.0.0.1:50051\n", "on 127.0.0.1:1\n"),
        ("copy.db: 397,312 bytes\n", "copy.db: 4,096 bytes\n"),
        ('{"created":"2026-11-23T15:37:15Z"}\n', '{"created":"2031-01-02T03:04:05Z"}\n'),
        ('"token": "…"\n', '"token": "abc"\n'),
        ("{\n…\n}\n", "{\n 1,\n 2\n}\n"),
    ],
)
def test_a_placeholder_stands_for_another_value(documented: str, printed: str) -> None:
    assert Placeholders().pattern(documented).fullmatch(printed)


@pytest.mark.parametrize(
    ("documented", "printed"),
    [
        ("11 deleted\n", "112 deleted\n"),
        ("11 deleted\n", "11 deleted\nand more\n"),
        ("on 127.0.0.1:50051\n", "on 127.0.0.2:50051\n"),
        ('"create_time": "2026-02-14T08:05:00Z"\n', '"create_time": "2026-02-14T08:05:01Z"\n'),
        ('"token": "…"\n', '"token": "a\nb"\n'),
        ("a … z\n", "a\nz\n"),
    ],
)
def test_all_else_must_be_as_documented(documented: str, printed: str) -> None:
    assert not Placeholders().pattern(documented).fullmatch(printed)


def test_a_key_that_was_made_is_the_documented_one_from_then_on() -> None:
    placeholders = Placeholders()
    matched = placeholders.pattern(f"{KEY} is {KEY}\n").fullmatch(f"{OTHER_KEY} is {OTHER_KEY}\n")
    assert matched
    placeholders.learn(matched)
    assert placeholders.in_command(f"keys revoke {KEY}") == f"keys revoke {OTHER_KEY}"
    assert placeholders.pattern(f"{KEY} is revoked\n").fullmatch(f"{OTHER_KEY} is revoked\n")
    assert not placeholders.pattern(f"{KEY} is revoked\n").fullmatch(f"{KEY} is revoked\n")
