"""Knock, the outside: the client that asks it, and what it is built on: connections, deadlines, memory."""
