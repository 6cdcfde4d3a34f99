"""Connections that keep a deadline: for Knock, and for any other server that is asked over HTTP."""
