"""The gRPC transport."""

from interaction_svc.grpc_api.server import GrpcServer

__all__ = ["GrpcServer"]
