"""The JSON Schema of the configuration file, for editors: `python -m exporter.config.schema`."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from itertools import pairwise
from typing import Any

from exporter.config import settings
from exporter.config.kinds import DURATION
from exporter.config.settings import CONFIG, KEY_SOURCES, PACE, PACE_KEYS, Config, Pace
from exporter.config.values import show_duration

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> str:
    """Write the schema as `docs/config.schema.json` holds it."""
    shared, schema = _plain(PACE.json_schema()), _plain(CONFIG.json_schema())
    described = _descriptions()
    for name, section in {**schema["$defs"], Pace.__name__: shared, Config.__name__: schema}.items():
        for key, value in section["properties"].items():
            text = described[name].get(key) or described[Pace.__name__][key]
            section["properties"][key] = dict(sorted({**value, "description": text}.items()))
    own = schema["$defs"]["EnvironmentSettings"]
    for key in PACE_KEYS:
        own["properties"][key].pop("default", None)
        without, _, _ = own["properties"][key]["description"].partition(" Default:")
        own["properties"][key]["description"] = f"{without} Default: the top level's."
    own["oneOf"] = [{"required": [key]} for key in KEY_SOURCES]
    shared["properties"]["max_in_flight"].pop("default")
    whole = {"$schema": DIALECT, **schema, "properties": shared["properties"] | schema["properties"]}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _descriptions() -> dict[str, dict[str, str]]:
    """Return what stands below each field, by class and key."""
    classes = [node for node in ast.parse(inspect.getsource(settings)).body if isinstance(node, ast.ClassDef)]
    return {
        node.name: {
            field.target.id: str(text.value.value)
            for field, text in pairwise(node.body)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        }
        for node in classes
    }


def _plain(node: Any) -> Any:
    """Leave out what is not for people: titles made of names, and defaults that nobody would write."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _plain(value) for key, value in node.items() if key != "title" or isinstance(value, dict)}
    if node.get("default") in (None, []) or isinstance(node.get("default"), dict):
        kept.pop("default", None)
    elif node.get("pattern") == DURATION["pattern"]:
        kept["default"] = show_duration(node["default"])
    return kept


if __name__ == "__main__":
    sys.stdout.write(json_schema())
