"""The gRPC listener on h2corn, an HTTP/2 server for ASGI applications (an optional package)."""
