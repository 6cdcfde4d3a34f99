"""What is generated in the chart: schema, README, copies of rules and dashboards. `make chart` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rules
import values_schema
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "knock-exporter"
MONITORING = ROOT / "monitoring"
NOTE = "# Generated from monitoring/ by `make chart`; thresholds are filled in by templates/prometheusrule.yaml.\n"
TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}


def _values() -> tuple[yaml.MappingNode, list[str]]:
    """Return values.yaml with its places, and its lines, which have the comments."""
    text = (CHART / "values.yaml").read_text()
    node = yaml.compose(text, Loader=yaml.CSafeLoader)
    assert isinstance(node, yaml.MappingNode)  # noqa: S101 - our own file
    return node, text.splitlines()


def _described(lines: list[str], line: int) -> str:
    """Return the comment above a key, as helm-docs reads it."""
    found: list[str] = []
    for text in reversed(lines[:line]):
        if not text.strip().startswith("#"):
            break
        found.insert(0, text.strip().removeprefix("#").strip())
    if not (found and found[0].startswith("-- ")):
        return ""
    kept = [text.removeprefix("-- ") for text in found if not text.startswith("@")]
    return " ".join(kept)


def _default(value: yaml.Node) -> Any:
    return yaml.constructor.SafeConstructor().construct_document(value)


def _walk(node: yaml.MappingNode, lines: list[str], special: dict[str, Any], before: str = "") -> dict[str, Any]:
    properties, required = {}, []
    for key, value in node.value:
        path = f"{before}{key.value}"
        made = special.get(path)
        if made is None and isinstance(value, yaml.MappingNode) and value.value:
            made = _walk(value, lines, special, f"{path}.")
        elif made is None:
            made = {"type": TYPES[type(_default(value))]}
            if made["type"] == "object" and key.value.lower().endswith(("annotations", "labels")):
                made = values_schema.TEXTS
        text = _described(lines, key.start_mark.line)
        properties[key.value] = made | ({"description": text} if text else {})
        # null in its place, which takes a default away, would be a nil pointer in the templates.
        if value.value and (before or "properties" in made or isinstance(value, yaml.ScalarNode)):
            required.append(key.value)
    properties |= values_schema.others().get(before.removesuffix("."), {})
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def schema() -> str:
    """Return values.schema.json: what the defaults tell, and the exporter's own schema for its own keys."""
    exporter = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    whole = _walk(*_values(), values_schema.special(exporter, _thresholds()))
    # A chart that has this one as a dependency, with a condition, sets this.
    whole["properties"]["enabled"] = {"type": "boolean"}
    wanted = {"GroupSettings", "HttpSource", "ListedOperation", "Polling"}
    parts = {name: part for name, part in exporter["$defs"].items() if name in wanted}
    made = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **whole,
        "definitions": parts,
    }
    return _written(values_schema.portable(made)).replace("#/$defs/", "#/definitions/") + "\n"


def _written(schema: Any, indent: str = "") -> str:
    """Return it as JSON with a line for each property; what has no properties is one line."""
    if not isinstance(schema, dict) or not any(isinstance(each, dict) for each in schema.values()):
        return json.dumps(schema, ensure_ascii=False)
    lines = [f"{indent}  {json.dumps(name)}: {_written(value, indent + '  ')}" for name, value in schema.items()]
    return "\n".join(["{", ",\n".join(lines), indent + "}"])


def _thresholds() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(rules.THRESHOLDS.read_text())
    return {name: value for name, value in values.items() if name != "disabled"}


def _table() -> str:
    whole, lines = _values()
    found: list[str] = []

    def walk(node: yaml.MappingNode, before: str) -> None:
        for key, value in node.value:
            text = _described(lines, key.start_mark.line)
            if not text and isinstance(value, yaml.MappingNode):
                walk(value, f"{before}{key.value}.")
            else:
                default = json.dumps(_default(value))
                found.append(f"| `{before}{key.value}` | `{default}` | {text} |")

    walk(whole, "")
    return "\n".join(["| value | default | |", "| --- | --- | --- |", *found])


def documents() -> dict[str, str]:
    """Return everything that is generated, path in the chart to text."""
    marks: dict[str, Any] = {name: f"[[{name}]]" for name in _thresholds()} | {"disabled": []}
    made = {f"files/{name}": text.replace(rules.HEADER, NOTE) for name, text in rules.made(marks).items()}
    copied = {
        f"files/dashboards/{file.name}": file.read_text() for file in sorted((MONITORING / "dashboards").iterdir())
    }
    readme = (CHART / "README.md.gotmpl").read_text().replace("\nVALUES\n", f"\n{_table()}\n")
    return {
        **made,
        **copied,
        "files/thresholds.yaml": NOTE + yaml.safe_dump(_thresholds(), sort_keys=False, width=1000),
        "values.schema.json": schema(),
        "README.md": readme,
    }


def main() -> None:
    """Write all of it."""
    for name, text in documents().items():
        file = CHART / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main()
