"""What both transports check calls by; one of each for the whole service."""

from dataclasses import dataclass, field

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.rate_limits import RequestRateLimit
from interaction_svc.admission.response_backlog import ResponseBacklog
from interaction_svc.app.authentication import Authenticator


@dataclass(frozen=True, slots=True)
class AdmissionControl:
    """Who gets in, and how much at once."""

    authenticator: Authenticator
    concurrency: ConcurrencyLimit
    call_rate: RequestRateLimit
    deadline_seconds: float
    """The longest that a call may take, but for streams."""
    unsent: ResponseBacklog = field(default_factory=ResponseBacklog)
    """The answers that clients have not taken yet."""
