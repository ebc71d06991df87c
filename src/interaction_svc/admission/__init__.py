"""Limits on requests, and the rule that shares the process between reads and bulk writes."""
