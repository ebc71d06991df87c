"""The interceptors around each call. `transports.pipeline` describes the stages and their order.

InFlight is the outermost, so that a drain waits for the whole call and its error handling.
"""

from interaction_svc.transports.grpcio.interceptors.admission import Admission
from interaction_svc.transports.grpcio.interceptors.authentication import Authentication
from interaction_svc.transports.grpcio.interceptors.chain import Chain
from interaction_svc.transports.grpcio.interceptors.errors import Errors
from interaction_svc.transports.grpcio.interceptors.in_flight import InFlight
from interaction_svc.transports.grpcio.interceptors.telemetry import Telemetry

__all__ = ["Admission", "Authentication", "Chain", "Errors", "InFlight", "Telemetry"]
