"""What outlives the process: one SQLite file, read at the start and written by a thread of its own."""
