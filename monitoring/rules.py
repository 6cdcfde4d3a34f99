"""The rule files: made of rules.yaml and a file of thresholds."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent
SOURCE, THRESHOLDS = FOLDER / "rules.yaml", FOLDER / "thresholds.yaml"
SERVICE = "knock-exporter"
HEADER = "# Generated from monitoring/rules.yaml and monitoring/thresholds.yaml by `make monitoring`; edit those.\n"
_MARK = re.compile(r"( *)<<(\w+)>>")
DURATION = "([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?"  # as Prometheus has it, or ""
_DURATION = re.compile(f"(?=.){DURATION}")


class BadThresholdsError(ValueError):
    """The thresholds do not fit the rules; the message says which."""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def fill(text: str, values: Mapping[str, Any]) -> str:
    """Put values in the place of their marks; text of several lines keeps the indentation of its mark.

    Raises BadThresholdsError for a mark that has no value.
    """

    def value(mark: re.Match[str]) -> str:
        spaces, name = mark.groups()
        if name not in values:
            raise BadThresholdsError(f"`{name}` is missing")
        start = mark.string.rfind("\n", 0, mark.start()) + 1
        indent = spaces if start == mark.start() else ""
        return str(spaces + fill(str(values[name]), values).replace("\n", "\n" + indent))

    return _MARK.sub(value, text)


def documents(thresholds: Path = THRESHOLDS) -> dict[str, str]:
    """Return the rule files, name to text; what this file of thresholds does not name is as in `THRESHOLDS`.

    Raises OSError for a file that cannot be read, and BadThresholdsError where it is not YAML, or a threshold is not
    known, not of its kind, or switches off an alert that does not exist.
    """
    defaults, wanted = _read(THRESHOLDS), _read(thresholds)
    for name, value in wanted.items():
        if name in defaults and (expected := _expected_instead(name, value, defaults[name])):
            raise BadThresholdsError(f"{name}: expected {expected}, got {value!r}")
    return made(defaults | wanted)


def _expected_instead(name: str, value: object, default: object) -> str | None:
    """Say what a threshold must be, if it is not; its default tells."""
    if isinstance(default, list):
        good, expected = isinstance(value, list), "a list of alerts"
    elif isinstance(default, str):
        is_duration = bool(default) and _DURATION.fullmatch(default) is not None
        good = isinstance(value, str) and (not is_duration or _DURATION.fullmatch(value) is not None)
        expected = f"a duration such as {default}" if is_duration else "a text"
        if good and is_duration and not name.endswith(("_for", "keep_firing")):  # PromQL has no range of 0
            good, expected = re.search("[1-9]", str(value)) is not None, f"a duration above 0 such as {default}"
    else:
        most = 1 if name.endswith("_ratio") else math.inf
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most
        expected = "a number from 0" + (" to 1" if most == 1 else "")
    return None if good else expected


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise BadThresholdsError("is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadThresholdsError(f"line {line}: is not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise BadThresholdsError(f"is not valid YAML: {error}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise BadThresholdsError("expected a mapping of names to values")
    names: set[str] = set()
    for name, _ in node.value:
        if name.value in names:
            raise BadThresholdsError(f"line {name.start_mark.line + 1}: {name.value} is a duplicate")
        names.add(name.value)
    return dict(values)


def made(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the rule files by these thresholds; raises BadThresholdsError as `documents`."""
    source = _source()
    _check(source, values)
    known = {**values, **source["fragments"]}
    records = {
        name: [{"record": rule["record"], "expr": fill(rule["expr"], known)} for rule in rules]
        for name, rules in source["records"].items()
    }
    alerts = {
        name: [_alert(rule, known, source["pages"]) for rule in rules if rule["alert"] not in values["disabled"]]
        for name, rules in source["alerts"].items()
    }
    return {"recording.yaml": _document(records), "alerts.yaml": _document(alerts)}


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts of the source, name to rule, in its order."""
    return {rule["alert"]: rule for group in _source()["alerts"].values() for rule in group}


def _source() -> dict[str, Any]:
    source: dict[str, Any] = yaml.load(SOURCE.read_text(), Loader=yaml.SafeLoader)
    return source


def _check(source: dict[str, Any], values: Mapping[str, Any]) -> None:
    used = {name for _, name in _MARK.findall(json.dumps(source))} - source["fragments"].keys()
    own = {"runbooks", "dashboards", "disabled", "keep_firing"}
    if wrong := sorted(map(str, values.keys() - (used | own))):
        raise BadThresholdsError(f"not known: {', '.join(wrong)} (the names are those of {THRESHOLDS.name})")
    if wrong := sorted(set(map(str, values["disabled"])) - alerts().keys()):
        raise BadThresholdsError(f"`disabled` names no alert: {', '.join(wrong)}")


def _alert(rule: dict[str, Any], values: Mapping[str, Any], pages: Mapping[str, str]) -> dict[str, Any]:
    alert = {"alert": rule["alert"], "expr": fill(rule["expr"], values)}
    if "for" in rule:
        alert["for"] = fill(rule["for"], values)
    if rule.get("keep_firing") != "none":
        alert["keep_firing_for"] = values["keep_firing"]
    labels = {"severity": rule["severity"], "service": SERVICE}
    texts = {name: fill(rule[name], values) for name in ("summary", "description")}
    links = {"runbook_url": f"{values['runbooks']}/{rule['alert']}.md"}
    if page := rule.get("page"):
        of_environment = "knock_environment" in fill(rule["expr"], values)
        found = f"<<page_by_{'environment' if of_environment else 'instance'}>>"
        link = f'{{{{ with {found} | query }}}}{{{{ . | first | label "external_url" }}}}{pages[page]}{{{{ end }}}}'
        links["page_url"] = fill(link, values)
    if where := values["dashboards"]:
        links["dashboard_url"] = f"{where}{_dashboard(rule['expr'], values)}"
    return alert | {"labels": labels, "annotations": texts | links}


def _dashboard(expression: str, values: Mapping[str, Any]) -> str:
    """Return the dashboard that shows what an alert is about, with its environment and group chosen."""
    whole = fill(expression, values)
    if re.search("knock_(bulk|group)_", whole):
        return (
            "/knock-overview?var-environment={{ $labels.knock_environment | urlquery }}"
            "&var-group={{ $labels.group | urlquery }}"
        )
    if "knock_environment" in whole:
        return "/knock-exporter?var-environment={{ $labels.knock_environment | urlquery }}"
    return "/knock-exporter"


def _document(groups: Mapping[str, list[dict[str, Any]]]) -> str:
    document = {"groups": [{"name": name, "rules": rules} for name, rules in groups.items()]}
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10000, allow_unicode=True)
