"""Reads from a streaming replica, with read-your-writes by WAL positions."""
