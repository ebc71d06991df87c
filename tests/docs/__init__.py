"""Tests that run the commands and snippets of the documentation, and look up the names in it."""
