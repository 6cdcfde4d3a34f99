"""knock-exporter: a Prometheus exporter for Knock bulk operations."""

__version__ = "0.1.0"
