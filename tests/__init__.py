"""The specification, as tests."""

import pytest

# So that asserts in modules that hold no tests of their own explain themselves too.
pytest.register_assert_rewrite(
    "tests.calls",
    "tests.hostile",
    "tests.serving",
    "tests.store.living",
    "tests.store.reading",
    "tests.store.writing",
)
