"""What both transports check calls by; one of each for the whole service."""

from dataclasses import dataclass, field

from interaction_svc.admission.concurrency import CallRate, Concurrency, Unsent
from interaction_svc.app.authentication import Authenticator


@dataclass(frozen=True, slots=True)
class Guards:
    """Who gets in, and how much at once."""

    authenticator: Authenticator
    concurrency: Concurrency
    call_rate: CallRate
    deadline_seconds: float
    """The longest that a call may take, but for streams."""
    unsent: Unsent = field(default_factory=Unsent)
    """The answers that clients have not taken yet."""
