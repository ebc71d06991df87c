"""The contract of a store: one suite that every backend runs."""
