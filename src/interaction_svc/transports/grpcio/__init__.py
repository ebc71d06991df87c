"""The gRPC engine on grpc.aio."""
