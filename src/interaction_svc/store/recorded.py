"""The result of a record."""

from typing import NamedTuple

from interaction_svc.domain.interactions import Outcome


class Recorded(NamedTuple):
    """The outcome of a record, and the stored frame after it.

    The frame is None if the Interaction is deleted, or stored under another Service.
    """

    outcome: Outcome
    frame: bytes | None
