"""Units of sizes."""

KIB = 1024
"""Bytes in a kibibyte."""
MIB = 1024 * KIB
"""Bytes in a mebibyte."""
