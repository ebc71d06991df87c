"""Logs, audit lines and metrics of requests and of the process."""
