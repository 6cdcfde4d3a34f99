"""Kubernetes' own kinds, checked by the schemas of kubernetes-validate, each read once."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource


def is_described(made: dict[str, Any], version: str) -> bool:
    """Whether this version (1.31) describes the kind; raises jsonschema's ValidationError if it is not made so."""
    api = re.sub(r"^([^./]*)(\.[^/]*)?/", r"\1-", made["apiVersion"])  # rbac.authorization.k8s.io/v1 is rbac-v1 there
    try:
        validator = _validator(version, f"{made['kind'].lower()}-{api}")
    except FileNotFoundError:
        return False
    validator.validate(made)
    return True


@cache
def _validator(version: str, kind: str) -> Draft202012Validator:
    schema = _read(version, kind)
    return Draft202012Validator(schema, registry=[Resource.from_contents(schema), _definitions(version)] @ Registry())


@cache
def _definitions(version: str) -> Resource[Any]:
    return Resource.from_contents(_read(version, "_definitions"))


def _read(version: str, name: str) -> Any:
    return schema_contents(f"kubernetes-json-schema/v{version}.0-local-strict/{name}.json", version)
