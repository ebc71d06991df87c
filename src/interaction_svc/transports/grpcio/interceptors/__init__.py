"""What every call goes through, from the outside in; the order matters.

1. InFlight, so that a drain waits for all of a call, its error handling too;
2. Observe, so that what is refused further in is logged and counted as well;
3. Errors, so that whatever is raised further in reaches the caller as one of ours;
4. Admit, so that checking credentials takes a place too, and a deadline holds for it;
5. Authenticate, so that who has no right to a call learns nothing by its request.
"""

from interaction_svc.transports.grpcio.interceptors.admission import Admit, Times
from interaction_svc.transports.grpcio.interceptors.authentication import Authenticate
from interaction_svc.transports.grpcio.interceptors.chain import Chain
from interaction_svc.transports.grpcio.interceptors.errors import Errors
from interaction_svc.transports.grpcio.interceptors.in_flight import InFlight
from interaction_svc.transports.grpcio.interceptors.telemetry import Observe

__all__ = ["Admit", "Authenticate", "Chain", "Errors", "InFlight", "Observe", "Times"]
