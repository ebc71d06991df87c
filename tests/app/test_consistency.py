"""Consistency tokens: decoding returns the encoded revision; other texts are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interaction_svc.app.consistency import (
    CONSISTENCY_HEADER,
    MAX_TOKEN_LENGTH,
    decode_token,
    encode_token,
)
from interaction_svc.domain.errors import InvalidConsistencyToken
from interaction_svc.store import UNKNOWN_REVISION, Revision

BITS_64 = st.integers(0, 2**64 - 1)
REVISIONS = st.builds(Revision, BITS_64, st.integers(0, 2**32 - 1), BITS_64)
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(REVISIONS)
def test_decoding_a_token_returns_its_revision(revision: Revision) -> None:
    token = encode_token(revision)
    assert decode_token(token) == revision
    assert len(token) <= MAX_TOKEN_LENGTH
    assert set(token) <= set(CHARACTERS)


@given(REVISIONS, st.data())
def test_a_token_with_another_character_is_refused(revision: Revision, data: st.DataObject) -> None:
    token = encode_token(revision)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(CHARACTERS).filter(lambda one: one != token[place]))
    with pytest.raises(InvalidConsistencyToken):
        decode_token(token[:place] + other + token[place + 1 :])


@given(st.text(max_size=2 * MAX_TOKEN_LENGTH))
def test_random_text_is_refused_and_the_header_named(text: str) -> None:
    with pytest.raises(InvalidConsistencyToken, match=CONSISTENCY_HEADER):
        decode_token(text)


@pytest.mark.parametrize("bad", ["", "A", "=", "AAAA====", "é", "A" * 34, "A" * 100_000])
def test_text_that_is_almost_a_token_is_refused(bad: str) -> None:
    token = encode_token(Revision(1, 2, 3))
    for text in (bad, token + bad if bad else token[:-1], f" {token}", f"{token}="):
        with pytest.raises(InvalidConsistencyToken):
            decode_token(text)


def test_a_token_of_another_version_is_an_unknown_revision() -> None:
    assert decode_token("RDObcwIHBw") == UNKNOWN_REVISION  # a checksum, version 2, and two bytes
