"""Random values that a JSON Schema accepts, small ones first; for the keywords that values.schema.json uses."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
KEYWORDS = {
    *("type", "properties", "additionalProperties", "patternProperties", "propertyNames", "required", "items", "$ref"),
    *("enum", "pattern", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "anyOf"),
    "allOf",  # of a text: patterns besides its own
    *("minItems", "maxItems", "minProperties", "uniqueItems"),
    *("description", "format", "$schema", "definitions"),
}
AT_ONCE = 8  # optional properties of an object
LARGEST = 10**7
# What YAML may hold.
TEXT = st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), max_size=12)
FORMATS = {"uuid": st.uuids().map(str)}


def values(schema: Schema, definitions: Schema) -> st.SearchStrategy[Any]:
    """Return a strategy of what the schema accepts; fails for a keyword that is unknown here."""
    unknown = schema.keys() - KEYWORDS
    assert not unknown, f"schema_values.py knows no {unknown}"
    if "$ref" in schema:
        return st.deferred(lambda: values(definitions[schema["$ref"].rpartition("/")[2]], definitions))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([values(each, definitions) for each in schema["anyOf"]])
    kinds = schema.get("type", "object")
    return st.one_of([_of_type(kind, schema, definitions) for kind in (kinds if isinstance(kinds, list) else [kinds])])


def _of_type(kind: str, schema: Schema, definitions: Schema) -> st.SearchStrategy[Any]:
    if kind == "object":
        return _objects(schema, definitions).filter(lambda made: len(made) >= schema.get("minProperties", 0))
    if kind == "array":
        if "items" not in schema:
            return st.just([])
        unique = repr if schema.get("uniqueItems") else None
        return st.lists(
            values(schema["items"], definitions), min_size=schema.get("minItems", 0), max_size=2, unique_by=unique
        )
    if kind == "boolean":
        return st.booleans()
    if kind in {"integer", "number"}:
        lowest = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        whole = st.integers(lowest, schema.get("maximum", LARGEST))
        return (
            whole
            if kind == "integer"
            else st.one_of(whole, whole.map(lambda number: number / 2 if number > 2 * lowest else number))
        )
    assert kind == "string", kind
    return _texts(schema)


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", 300)
    made = TEXT
    if form := schema.get("format"):
        made = FORMATS[form]
    elif pattern := schema.get("pattern"):
        # In Python a $ lets a newline follow, in Helm it does not.
        made = st.from_regex(
            pattern.removeprefix("^").removesuffix("$"),
            fullmatch=True,
            alphabet=st.characters(min_codepoint=32, max_codepoint=126),
        )
    besides = [each["pattern"] for each in schema.get("allOf", ())]
    return made.filter(lambda text: shortest <= len(text) <= longest and all(re.search(each, text) for each in besides))


def _objects(schema: Schema, definitions: Schema) -> st.SearchStrategy[dict[str, Any]]:
    properties, required = schema.get("properties", {}), schema.get("required", ())
    optional = sorted(properties.keys() - set(required))
    chosen = st.lists(st.sampled_from(optional), max_size=AT_ONCE, unique=True) if optional else st.just([])
    known = {name: values(each, definitions) for name, each in properties.items()}
    named = [({"pattern": pattern}, each) for pattern, each in schema.get("patternProperties", {}).items()]
    if isinstance(more := schema.get("additionalProperties", True), dict):
        named.append((schema.get("propertyNames", {}), more))
    others = [
        (
            st.lists(values({"type": "string"} | names, definitions).filter(bool), max_size=2, unique=True),
            values(each, definitions),
        )
        for names, each in named
    ]

    @st.composite  # of strategies that are made once: to make them takes longer than to draw
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        made = {name: draw(known[name]) for name in [*required, *draw(chosen)]}
        for names, each in others:
            for name in draw(names):
                made[name] = draw(each)
        return made

    return objects()
