"""Limits on requests, and fairness between reads and bulk writes."""
