"""Tables of mistakes in configuration files, and the message for each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

TABLES = Path(__file__).parents[1] / "mistakes"


class Mistake(NamedTuple):
    """What is in a file, and all that is said of it; each line of a message begins with the file's name."""

    written: bytes
    message: str

    def shown(self, file: Path) -> str:
        """Return the whole message, for what was written into this file."""
        return "\n".join(f"{file}: {line}" for line in self.message.splitlines())


def of_table(name: str) -> dict[str, Mistake]:
    """Read a table: mistakes by name."""
    text = (TABLES / name).read_text(encoding="utf-8")
    rows = {
        row: Mistake(each["written"].encode(), each["message"])
        for row, each in yaml.load(text, Loader=yaml.CSafeLoader).items()
    }
    assert len(rows) == text.count("\n  message: |"), "two mistakes have one name"
    return rows
