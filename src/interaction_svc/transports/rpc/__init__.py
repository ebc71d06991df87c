"""The RPC methods, bytes in and bytes out, without an engine."""
