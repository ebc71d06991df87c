"""Erasure: deleted content leaves the write-ahead log and the unallocated space of the file."""
