"""Stubs of the public API, generated from protos/ by `make generate`."""
