"""Measurements of the service, on the real thing."""
