"""The machine: files, SQLite, hardware, identity."""
