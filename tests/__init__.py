"""The specification, as tests."""

import pytest

# So that asserts in modules that hold no tests of their own explain themselves too.
pytest.register_assert_rewrite(
    "testing.requests",
    "testing.hostile_client",
    "testing.process",
    "tests.store.contract.lifetime",
    "tests.store.contract.reads",
    "tests.store.contract.writes",
)
