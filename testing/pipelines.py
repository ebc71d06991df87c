"""A pipeline with few limits, for servers that a test builds in its own process."""

from interaction_svc.admission.concurrency import ConcurrencyLimit
from interaction_svc.admission.control import AdmissionControl
from interaction_svc.admission.rate_limits import RequestRateLimit
from interaction_svc.app.authentication import Authenticator
from interaction_svc.app.ingest import Ingest
from interaction_svc.app.interactions import Interactions
from interaction_svc.domain.units import KIB, MIB
from interaction_svc.store import Store
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline, StreamTimes
from interaction_svc.transports.rpc.health import HealthServicer
from interaction_svc.transports.rpc.limits import GrpcLimits
from interaction_svc.transports.rpc.method import Method
from interaction_svc.transports.rpc.methods import SERVICES, rpc_methods

GRPC_LIMITS = GrpcLimits(
    max_message_bytes=4 * MIB,
    max_header_bytes=16 * KIB,
    max_streams_per_connection=100,
    max_connections=100,
    header_timeout_seconds=10,
    connection_idle_seconds=60,
    connection_age_seconds=0,
    max_calls=100,
    drain_seconds=5,
    keepalive_seconds=60,
)
STREAM_TIMES = StreamTimes(idle=60, total=600)


def methods_of(interactions: Interactions, ingest: Ingest) -> dict[Operation, Method]:
    """Return the methods of these services. Health is NOT_SERVING."""
    return rpc_methods(interactions, ingest, HealthServicer(SERVICES))


def open_pipeline(store: Store, *, places: int = 9, deadline_seconds: float = 30) -> Pipeline:
    """Return a pipeline that accepts every caller, for a store without keys."""
    return Pipeline(
        Authenticator(store, allows_anonymous=True),
        AdmissionControl(ConcurrencyLimit(places), RequestRateLimit(0), deadline_seconds),
    )
