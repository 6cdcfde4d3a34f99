"""What a release is made by: `check v1.2.3` says whether a tag can be released, `notes 1.2.3` prints its changelog.

The standard library only: a workflow runs it before anything is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECTION = r"^## \[{version}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## \[|\Z)"


class ReleaseError(Exception):
    """A tag that cannot be released, or a version that the changelog does not have."""


def version(root: Path) -> str:
    """Return the version of the code."""
    return _found(r'^__version__ = "(.+)"$', root / "exporter" / "__init__.py")


def check(tag: str, root: Path) -> None:
    """Raise ReleaseError unless the tag, the code, the chart and the changelog name one version."""
    wanted = tag.removeprefix("v")
    chart = root / "helm" / "knock-exporter" / "Chart.yaml"
    named = {
        "exporter/__init__.py": version(root),
        "version of Chart.yaml": _found(r"^version: (.+)$", chart),
        "appVersion of Chart.yaml": _found(r"^appVersion: (.+)$", chart),
    }
    wrong = [f"{where} says {found}" for where, found in named.items() if found != wanted]
    if tag == wanted or wrong:
        raise ReleaseError(f"{tag} is not v and the version of the code: {'; '.join(wrong) or 'the v is missing'}")
    notes(wanted, root)


def notes(wanted: str, root: Path) -> str:
    """Return the changelog's section of a version, without its heading. Raises ReleaseError where there is none."""
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(SECTION.format(version=re.escape(wanted)), changelog, re.MULTILINE | re.DOTALL)
    text = found[1].strip() if found else ""
    if not text:
        raise ReleaseError(f"CHANGELOG.md has no section of {wanted}: write the line ## [{wanted}] - YYYY-MM-DD")
    return text + "\n"


def _found(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ReleaseError(f"{path.name} names no version")
    return found[1]


def main(arguments: list[str]) -> int:
    """Run a command; 1 if what it asks does not hold, 2 for wrong use."""
    try:
        match arguments:
            case ["check", tag]:
                check(tag, ROOT)
            case ["notes", wanted]:
                sys.stdout.write(notes(wanted, ROOT))
            case _:
                sys.stderr.write("usage: release.py check TAG | notes VERSION\n")
                return 2
    except ReleaseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
