"""Rivals to compare the service with: separate programs on loopback.

Each prints one line when it is ready, `gRPC on HOST:PORT` or `REST on http://HOST:PORT`, and ends
at SIGTERM. None of them logs, measures, limits or watches; what each leaves out besides is told at
its top. They are written to be as fast as their way of writing allows.
"""
