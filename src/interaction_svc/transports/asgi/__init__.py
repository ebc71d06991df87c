"""ASGI middleware that is independent of the vendor's API."""
