"""The vendor's REST API as an ASGI application."""
