"""The dashboards, as Grafana reads them."""

from __future__ import annotations

import json

import exporter_itself
import overview
from grafana_foundation_sdk.cog.encoder import JSONEncoder


def documents() -> dict[str, str]:
    """Return the dashboards, name to JSON."""
    made = {"overview.json": overview.document(), "exporter.json": exporter_itself.document()}
    return {
        name: json.dumps(document, cls=JSONEncoder, indent=2, sort_keys=True) + "\n" for name, document in made.items()
    }
