"""Knock, the outside: the client that asks it, and the layers below: connections, deadlines, memory, errors."""
