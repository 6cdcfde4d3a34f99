"""What `kubectl apply -k deploy/kubernetes` applies: the chart's defaults. `make chart` writes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
NOTE = "# Generated from helm/knock-exporter by `make chart`.\n"
CONFIG_NOTE = """\
# What the exporter follows: docs/configuration.md has every key. Put the ids that Knock's bulk calls answered with
# under operations; after `kubectl apply -k` the exporter takes a change within a minute or two, without a restart.
"""
SECRET = "knock"  # noqa: S105 - its name
HELMS_OWN = ("helm.sh/chart", "app.kubernetes.io/managed-by")


def documents(helm: Path) -> dict[str, str]:
    """Return the manifests as that Helm renders them, file name to text."""
    chosen = (
        "--set",
        f"environments.production.apiKeySecret={SECRET}",
        "--set-json",
        "environments.production.operations=[]",
    )
    command: list[str | Path] = [
        helm,
        "template",
        "knock-exporter",
        ROOT / "helm" / "knock-exporter",
        "--no-hooks",
        *chosen,
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own
    made = {}
    for each in filter(None, yaml.safe_load_all(text)):
        if each["kind"] == "ConfigMap":
            made["config.yaml"] = CONFIG_NOTE + each["data"]["config.yaml"].strip() + "\n"
        else:
            made[f"{each['kind'].lower()}.yaml"] = NOTE + yaml.safe_dump(_plain(each), sort_keys=False, width=1000)
    return made


def _plain(each: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only Helm sets: its labels, and the namespace."""
    each["metadata"].pop("namespace")
    for name in HELMS_OWN:
        each["metadata"]["labels"].pop(name)
    return each


def main() -> None:
    """Write them; the argument is where Helm is."""
    for name, text in documents(Path(sys.argv[1])).items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
