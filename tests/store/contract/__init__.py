"""The contract of a store: one test suite for all backends."""
