"""The bytes of unfinished requests are limited in all."""

import pytest

from interaction_svc.admission.request_bytes import RequestBytes
from interaction_svc.domain.errors import Overloaded
from interaction_svc.domain.units import MIB


def test_bytes_beyond_the_limit_are_refused() -> None:
    limit = RequestBytes()
    with limit.request() as one, limit.request() as other:
        one.add(40 * MIB)
        other.add(24 * MIB)
        with pytest.raises(Overloaded):
            other.add(1)
        assert limit.held == RequestBytes.MAX_BYTES
    assert limit.held == 0


def test_a_request_that_has_ended_leaves_its_bytes_to_others() -> None:
    limit = RequestBytes()
    with limit.request() as one:
        one.add(RequestBytes.MAX_BYTES)
    with limit.request() as other:
        other.add(RequestBytes.MAX_BYTES)
