"""The RPC methods as an ASGI application: Connect, gRPC-Web and gRPC."""
