"""ASGI middleware that knows no protocol."""
