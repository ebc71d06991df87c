"""Erasure of deleted content from the write-ahead log and from unallocated space of the file."""
