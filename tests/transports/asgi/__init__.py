"""Tests of the ASGI middleware."""
