"""Rivals: other programs with which the service is compared, on loopback.

Each prints one line when it is ready, `gRPC on HOST:PORT` or `REST on http://HOST:PORT`, and ends
at SIGTERM. None of them has logs, metrics, limits or health. Each module names the other features
that it lacks. Each rival is as fast as its libraries allow.
"""
