"""Helpers for tests, benchmarks and examples: real servers, databases, clients and certificates."""
