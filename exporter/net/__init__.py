"""Connections that keep a deadline: for Knock, and for whoever else is asked over HTTP."""
