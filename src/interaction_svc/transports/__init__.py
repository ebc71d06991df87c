"""Transports: a request comes in, becomes one call of the application, and is answered."""
