"""Rewrites a file of an earlier layout into a new file."""
