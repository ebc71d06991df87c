"""The SQLite backend: one file in WAL mode, accessed through aiosqlite."""
