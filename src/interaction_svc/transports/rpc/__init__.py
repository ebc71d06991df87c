"""The RPC methods, from request bytes to response bytes, independent of the gRPC engine."""
