"""Texts that tests compare with files.

UPDATE_GOLDEN=1 in the environment writes the files again; read the difference before you commit it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def normalised(text: str) -> str:
    """Take out what depends on the Python and the version at hand."""
    return re.sub(r'(version)="[^"]*"', r'\1="…"', text)


def compare(text: str, path: Path) -> None:
    """Fail where a text is not the one in the file."""
    text = normalised(text)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs"
