"""The limits that both transports share, as one object."""

from dataclasses import dataclass, field

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.rate_limits import RequestRateLimit
from interaction_svc.admission.request_bytes import RequestBytes
from interaction_svc.admission.response_backlog import ResponseBacklog


@dataclass(frozen=True, slots=True)
class AdmissionControl:
    """The limits on the number, the rate and the duration of requests."""

    concurrency: ConcurrencyLimit
    request_rate: RequestRateLimit
    deadline_seconds: float
    """The deadline of each request that is not a stream."""
    request_bytes: RequestBytes = field(default_factory=RequestBytes)
    """The limit on the bytes of HTTP requests that have not arrived completely."""
    response_backlog: ResponseBacklog = field(default_factory=ResponseBacklog)
    """The limit on responses that clients have not read yet."""
