"""Helpers and the base class of the contract's tests."""

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from testing.build import NOON_US, SECOND_US, Parents

from interaction_svc.domain.interactions import Scope
from interaction_svc.domain.paging import Position
from interaction_svc.domain.units import MIB
from interaction_svc.store import PageQuery, Row, Store
from interaction_svc.v1.interaction_service_pb2 import ListInteractionsResponse

EVERYONE = Scope(None)


NOW_US = NOON_US + 3600 * SECOND_US


def query(parents: Parents, **given: Any) -> PageQuery:
    return PageQuery(
        **{
            "service_sid": parents.service_sid,
            "session_sid": parents.session_sid,
            "limit": 10,
            "max_bytes": 4 * MIB,
            **given,
        }
    )


def position(row: Row) -> Position:
    """Return the position of a row in a list of all accounts."""
    return Position(row.created_us, row.sid, row.account_sid)


def position_in(scope: Scope, row: Row) -> Position:
    """Return the position of a row in a list of this scope."""
    return position(row) if scope.account_sid is None else position(row)._replace(account_sid="")


def sids(frames: bytes) -> list[str]:
    return [
        interaction.sid for interaction in ListInteractionsResponse.FromString(frames).interactions
    ]


class StoreTests:
    """Opens a backend's store."""

    @abstractmethod
    def opened(self, folder: Path) -> AbstractAsyncContextManager[Store]:
        """Open the store of this folder; close it after the block."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> Any:
        async with self.opened(tmp_path) as store:
            yield store
