"""The documentation: its commands and snippets are run, and the names in it are looked up."""
