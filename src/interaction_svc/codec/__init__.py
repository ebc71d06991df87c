"""Conversion of messages to and from bytes, JSON and query parameters, without I/O."""
