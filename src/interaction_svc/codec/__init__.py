"""Conversion of messages to and from bytes, the vendor's JSON and query parameters, without I/O."""
