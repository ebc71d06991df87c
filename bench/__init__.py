"""Benchmarks of the service, as a real process."""
