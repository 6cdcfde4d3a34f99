"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

import json
from typing import Any

from exporter.config.models import KEY_SOURCES, ConfigKeys, PaceKeys

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> str:
    """Write the schema as `docs/config.schema.json` holds it."""
    schema = {"$schema": DIALECT, **_untitled(ConfigKeys.model_json_schema())}
    _describe_environment(schema["$defs"]["EnvironmentKeys"])
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _describe_environment(schema: dict[str, Any]) -> None:
    for key in PaceKeys.model_fields:
        described = schema["properties"][key]
        described.pop("default", None)
        described["description"] = f"{described['description'].partition(' Default:')[0]} Default: the top level's."
    schema["oneOf"] = [{"required": [key]} for key in KEY_SOURCES]


def _untitled(node: Any) -> Any:
    # pydantic makes titles of the names ("Api Key File"), which editors would show in place of the key.
    if isinstance(node, list):
        return [_untitled(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _untitled(value) for key, value in node.items() if key != "title" or isinstance(value, dict)}
