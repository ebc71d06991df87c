"""The result of a record."""

from typing import NamedTuple

from interaction_svc.domain.interactions import Outcome


class Recorded(NamedTuple):
    """The outcome of a record, and the frame that is stored now (None: there is none to show)."""

    outcome: Outcome
    frame: bytes | None
