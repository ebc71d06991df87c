"""What every call goes through, from the outside in; the order matters.

1. InFlight, so that a drain waits for all of a call, its error handling too;
2. Errors, so that whatever is raised further in reaches the caller as one of ours.
"""

from interaction_svc.grpc_api.interceptors.errors import Errors
from interaction_svc.grpc_api.interceptors.in_flight import InFlight

__all__ = ["Errors", "InFlight"]
