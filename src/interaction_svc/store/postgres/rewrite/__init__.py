"""The rewrite of a database of schema version 1, while servers of that version keep running."""
