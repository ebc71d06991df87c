"""ASGI middleware, without the API of a vendor."""
