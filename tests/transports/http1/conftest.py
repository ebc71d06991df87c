"""Fixtures: a service with low limits, on each event loop."""

from collections.abc import Iterator

import pytest
from testing.event_loops import LOOPS, on_loop
from testing.http1 import LIMITS
from testing.process import Served, served


@pytest.fixture(scope="module", params=LOOPS)
def limited(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("limited")
    with served(folder, *LIMITS, env=on_loop(request.param, folder)) as running:
        yield running
