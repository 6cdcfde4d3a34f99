"""Generates what this folder holds of it: rules and dashboards.

With `--thresholds FILE --output FOLDER` the rules alone, by thresholds of your own: that needs PyYAML alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rules

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parent


def _write(folder: Path, documents: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        (folder / name).write_text(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write them, or end with what is wrong with the thresholds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thresholds", type=Path, default=rules.THRESHOLDS, help="another file of thresholds")
    parser.add_argument("--output", type=Path, help="where the rules go, instead of monitoring/rules")
    args = parser.parse_args(arguments)
    try:
        made = rules.documents(args.thresholds)
        _write(args.output or FOLDER / "rules", made)
    except rules.BadThresholdsError as error:
        sys.exit(f"{args.thresholds}: {error}")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    if args.output is None:
        _write(FOLDER / "dashboards", _dashboards())
    else:
        files = ", ".join(str(args.output / name) for name in made)
        print(f"Wrote {files}: name them under rule_files of Prometheus.")  # noqa: T201 - this is a script for a terminal


def _dashboards() -> dict[str, str]:
    try:
        import dashboards  # noqa: PLC0415 - the rules do without what it needs
    except ModuleNotFoundError as error:
        if error.name != "grafana_foundation_sdk":
            raise
        sys.exit(
            "the dashboards need grafana-foundation-sdk: `make monitoring` installs it; rules alone: --output FOLDER"
        )
    return dashboards.documents()


if __name__ == "__main__":
    main()
