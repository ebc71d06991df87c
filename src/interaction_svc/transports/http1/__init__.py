"""The HTTP/1.1 engine: a hardened subclass of uvicorn's protocol."""
