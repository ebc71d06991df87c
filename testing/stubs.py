"""The types of asynchronous stubs, which exist for type checkers only."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interaction_svc.v1.ingest_service_pb2_grpc import IngestServiceAsyncStub as Ingest
    from interaction_svc.v1.interaction_service_pb2_grpc import (
        InteractionServiceAsyncStub as Reading,
    )
else:
    Ingest = Reading = Any

__all__ = ["Ingest", "Reading"]
