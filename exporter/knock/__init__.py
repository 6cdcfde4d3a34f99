"""Knock, the outside: the client that asks it, and a simulator of it."""
