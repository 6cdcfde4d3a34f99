"""What loading a configuration of many ids costs, against what parsing its YAML alone takes in the same run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import yaml
from common import Result, ids, median_seconds

from exporter import config

COUNT, RUNS = 50_000, 1
HEAD = "environments:\n  - name: production\n    api_key: sk_benchmark\n    operations:\n"
FORMS = {"ids": "{}", "ids with labels": "{{id: {}, group: nightly, labels: {{team: growth}}}}"}


def loading() -> list[Result]:
    """Measure it in CPU time, for bare ids and with labels."""
    return [
        Result(f"loading 50,000 {what}, against yaml.CSafeLoader", _ratio(form), "times", "<= 2")
        for what, form in FORMS.items()
    ]


def _ratio(form: str) -> float:
    text = HEAD + "".join(f"      - {form.format(each)}\n" for each in ids(COUNT)) + "labels: [team]\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(text, encoding="utf-8")
        parsed = median_seconds(lambda: yaml.load(text, Loader=yaml.CSafeLoader), RUNS, time.process_time)
        return median_seconds(lambda: config.load(path, {}), RUNS, time.process_time) / parsed
