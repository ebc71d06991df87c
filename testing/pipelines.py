"""A pipeline with few limits, for servers that a test builds in its own process."""

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.rate_limits import RequestRateLimit
from interaction_svc.app.authentication import Authenticator
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.store import Store
from interaction_svc.transports.grpcio.limits import GrpcLimits
from interaction_svc.transports.pipeline import Pipeline

GRPC_LIMITS = GrpcLimits(
    max_message_bytes=4 * MIB,
    max_header_bytes=16 * KIB,
    max_streams_per_connection=100,
    max_connections=100,
    header_timeout_seconds=10,
    connection_idle_seconds=60,
    connection_age_seconds=0,
    keepalive_seconds=60,
    stream_idle_seconds=60,
    stream_seconds=600,
)


def open_pipeline(store: Store, *, places: int = 9, deadline_seconds: float = 30) -> Pipeline:
    """Return a pipeline that accepts every caller, for a store without keys."""
    return Pipeline(
        Authenticator(store, allows_anonymous=True),
        AdmissionControl(ConcurrencyLimit(places), RequestRateLimit(0), deadline_seconds),
    )
