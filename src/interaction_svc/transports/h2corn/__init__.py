"""The gRPC listener on h2corn, an HTTP/2 server for ASGI applications (an optional package).

Only these modules import h2corn. docs/engines.md compares it with grpcio.
"""
