"""The result of a record."""

from typing import NamedTuple

from interaction_svc.domain.interactions import Outcome


class Recorded(NamedTuple):
    """What became of a record, and the frame that is now stored (None: there is none to show)."""

    outcome: Outcome
    frame: bytes | None
