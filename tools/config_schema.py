"""Writes the JSON Schema of the configuration file, for editors: what each key means it takes from its document."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from exporter.config.kinds import DURATION
from exporter.config.settings import CONFIG, KEY_SOURCES, SHARED, SHARED_KEYS
from exporter.values import show_duration

DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SELF_EVIDENT = ("none", "required")


def json_schema() -> str:
    """Write the schema as `docs/config.schema.json` holds it."""
    shared, schema = _plain(SHARED.json_schema()), _plain(CONFIG.json_schema())
    whole = {"$schema": DIALECT, **schema, "properties": shared["properties"] | schema["properties"]}
    environment = whole["$defs"]["EnvironmentSettings"]
    environment["oneOf"] = [{"required": [key]} for key in KEY_SOURCES]
    whole["properties"]["max_in_flight"].pop("default")
    rows = re.findall(
        r"^\| `([^`]+)` ?\*? \| ([^|]*) \| ([^|]*) \| [^|]* \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE
    )
    meanings = {key: (default, meaning) for key, default, meaning in rows}
    _describe(whole, whole, "", meanings)
    for key in SHARED_KEYS:
        own = environment["properties"][key]
        own.pop("default", None)
        meaning = whole["properties"][key]["description"].partition(" Default: ")[0]
        environment["properties"][key] = dict(
            sorted({**own, "description": f"{meaning} Default: the top level's."}.items())
        )
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _describe(whole: dict[str, Any], section: dict[str, Any], path: str, meanings: dict[str, tuple[str, str]]) -> None:
    """Describe the keys of a section and of those below it."""
    for key, value in section["properties"].items():
        items = value.get("items", {})
        below = [each["$ref"] for each in (value, items, *items.get("anyOf", ())) if "$ref" in each]
        inner = [whole["$defs"][each.rpartition("/")[2]] for each in below]
        for each in inner:
            _describe(whole, each, f"{path}{key}{'[]' if items else ''}.", meanings)
        text = inner[0]["description"] if inner else value.get("description")
        if (name := path + key) in meanings:
            default, meaning = meanings[name]
            text = f"{meaning[0].upper()}{meaning[1:]}."
            if "default" not in value and default not in SELF_EVIDENT:
                text += f" Default: {default.strip('`')}."
        section["properties"][key] = dict(sorted({**value, "description": text}.items()))


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
