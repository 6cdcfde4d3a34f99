"""`knock-exporter state`: look at, move and check what the exporter remembers."""

from __future__ import annotations

import click


@click.group()
def state() -> None:
    """Export, import or check the state of an exporter."""
