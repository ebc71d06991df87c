"""Converts messages to and from bytes, Twilio's JSON and query parameters, without I/O."""
