"""The Prometheus operator's resources, checked by a round trip through models made of its definitions."""

from __future__ import annotations

from typing import Any

KINDS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


def lost(made: dict[str, Any]) -> list[str]:
    """Return the places of what the model does not know; raises pydantic's ValidationError for wrong values."""
    # Here, as it takes seconds, which every process of a run would spend when it collects the tests.
    from cloudcoil.models.prometheus_operator import v1  # noqa: PLC0415

    model = getattr(v1, made["kind"])
    again = model.model_validate(made).model_dump(mode="json", by_alias=True, exclude_unset=True)
    return list(_missing(made["spec"], again["spec"], "spec"))


def _missing(made: Any, again: Any, place: str) -> list[str]:
    if isinstance(made, dict) and isinstance(again, dict):
        return [
            each
            for key, value in made.items()
            for each in (_missing(value, again[key], f"{place}.{key}") if key in again else [f"{place}.{key}"])
        ]
    if isinstance(made, list) and isinstance(again, list) and len(made) == len(again):
        return [
            each
            for number, pair in enumerate(zip(made, again, strict=True))
            for each in _missing(*pair, f"{place}[{number}]")
        ]
    return [] if str(made) == str(again) else [f"{place}: {made!r} became {again!r}"]
