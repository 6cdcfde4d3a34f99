"""The dashboards, as Grafana reads them."""

from __future__ import annotations

import json
from typing import Any

import exporter_itself
import overview
from grafana_foundation_sdk.cog.encoder import JSONEncoder


def shown(whole: dict[str, Any]) -> dict[str, Any]:
    """Return a dashboard without the placement that the SDK gives: newer Grafana hides links and switches by it."""
    annotations = [{**mark} for mark in whole["annotations"]["list"]]
    links = [{**link} for link in whole["links"]]
    for each in (*annotations, *links):
        del each["placement"]
    return whole | {"annotations": whole["annotations"] | {"list": annotations}, "links": links}


def documents() -> dict[str, str]:
    """Return the dashboards, name to JSON."""
    made = {"overview.json": overview.document(), "exporter.json": exporter_itself.document()}
    plain = {name: json.loads(json.dumps(document, cls=JSONEncoder)) for name, document in made.items()}
    return {name: json.dumps(shown(whole), indent=2, sort_keys=True) + "\n" for name, whole in plain.items()}
