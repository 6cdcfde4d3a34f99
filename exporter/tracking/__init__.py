"""The heart: which operations there are, when each is asked, and what became of it."""
