"""Tests of the gRPC engine on grpc.aio."""
