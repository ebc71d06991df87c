"""Page tokens: decoding returns the encoded cursor; other texts are refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testing.build import NOON_US, new_sid
from testing.strategies import sids

from interaction_svc.app.page_tokens import PageTokens
from interaction_svc.domain.errors import InvalidPageToken, PageTokenMismatch
from interaction_svc.domain.paging import Cursor, Position
from interaction_svc.domain.sids import canonical_sid

TOKENS = PageTokens("KS1", "KC1", "AC1", 1, b"filter")


def stored_sids(prefix: str) -> st.SearchStrategy[str]:
    return st.just("") | sids(prefix).map(canonical_sid)


positions = st.builds(Position, st.integers(-(2**62), 2**62), stored_sids("KI"), stored_sids("AC"))
cursors = st.builds(Cursor, positions, st.booleans(), st.booleans())
CURSOR = Cursor(Position(NOON_US, new_sid("KI")))


@given(cursors)
def test_decoding_a_token_returns_its_cursor(cursor: Cursor) -> None:
    token = TOKENS.encode(cursor)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,512}", token)
    assert TOKENS.decode(token) == cursor


@given(cursors, st.data())
def test_a_token_with_characters_missing_changed_or_added_is_refused(
    cursor: Cursor, data: st.DataObject
) -> None:
    token = TOKENS.encode(cursor)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(max_codepoint=0x2FF, exclude_characters=token[place]))
    for changed in (
        token[:place],
        token[place + 1 :],
        token[:place] + other + token[place + 1 :],
        token[:place] + other + token[place:],
        token + other,
        token + "=",
    ):
        if changed:
            with pytest.raises(InvalidPageToken):
                TOKENS.decode(changed)


@given(st.text(min_size=1) | st.text("ABCdef012_-", min_size=1, max_size=600))
def test_random_text_is_refused(token: str) -> None:
    with pytest.raises(InvalidPageToken):
        TOKENS.decode(token)


@pytest.mark.parametrize(
    ("other", "argument"),
    [
        (TOKENS._replace(service_sid="KS2"), "service_sid"),
        (TOKENS._replace(session_sid="KC2"), "session_sid"),
        (TOKENS._replace(account_sid="AC2"), "account_sid"),
        (TOKENS._replace(account_sid=""), "account_sid"),
        (TOKENS._replace(order=2), "order"),
        (TOKENS._replace(filter=b"other"), "filter"),
    ],
)
def test_a_token_of_another_list_is_refused_and_the_argument_named(
    other: PageTokens, argument: str
) -> None:
    token = TOKENS.encode(CURSOR)
    with pytest.raises(PageTokenMismatch) as caught:
        other.decode(token)
    assert caught.value.field == argument


@pytest.mark.parametrize("sid", ["KI1", "KI" + "A" * 32, "KC" + "a" * 32, "x"])
@pytest.mark.parametrize("name", ["sid", "account_sid"])
def test_a_token_with_malformed_sids_is_refused(name: str, sid: str) -> None:
    """A client can compute the checksum, so the content is checked, too."""
    position = Position(**{**CURSOR.position._asdict(), name: sid})
    with pytest.raises(InvalidPageToken):
        TOKENS.decode(TOKENS.encode(Cursor(position)))


def test_a_token_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interaction_svc.app.page_tokens._VERSION", 1)
    token = TOKENS.encode(CURSOR)
    monkeypatch.undo()
    with pytest.raises(InvalidPageToken):
        TOKENS.decode(token)
