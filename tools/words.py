"""Words of the project's own where the field has one, and phrases that plain English does without."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from source import Package

# Parts of names: Lane, lanes and _lane_of have one.
PARTS = re.compile(
    "(admission|agenda|answer|answered|ask|asked|asker|board|cell|departure|desk|door|flood|gallery|gate|guard|handed"
    "|house|journal|judge|lane|look|naming|outlet|pacer|picture|recall|reception|roster|shelf|situation|standing|tell"
    "|told|turn|unfit)s?"
)
# Whole names: as a part of another one they are English.
WHOLE = re.compile("_*(kept|left|places|port|said|share)")
WHOLE_IN_WEB = re.compile("_*lock")

PHRASES = {
    "anew": r"\banew\b",
    "in force": r"\bin force\b",
    "whoever": r"\bwhoever\b",
    "for want of": r"\bfor want of\b",
    "let go of": r"\blet(s|ting)? go of\b",
    "stands twice": r"\bstands? twice\b",
    "is no X": r"(?<!\bthere )\b(is|are|was|were) no (?!longer\b|more\b|such\b)\w",
    "beside": r"\bbeside\b",
}
EXEMPT = frozenset({"words.py", "test_figures.py"})  # which name them


def own_words(package: Package) -> dict[str, list[str]]:
    """Return which words name a module, class, function or method, and which."""
    found: dict[str, list[str]] = {}
    for module in package.modules.values():
        names = [(module.name, module.name.rpartition(".")[2])]
        names += [(f"{module.name}: {node.name}", node.name) for node in module.definitions()]
        for place, name in names:
            for word in _own(name, module.name):
                found.setdefault(word, []).append(place)
    return dict(sorted(found.items()))


def _own(name: str, module: str) -> set[str]:
    parts = [each.lower() for each in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]
    found = {match[1] for each in parts if (match := PARTS.fullmatch(each))}
    alone = WHOLE.fullmatch(name.lower()) or (module.startswith("web.") and WHOLE_IN_WEB.fullmatch(name.lower()))
    return found | ({name.strip("_").lower()} if alone else set())


def phrases(root: Path) -> dict[str, dict[str, int]]:
    """Return how often each phrase occurs, in which of the files below a folder."""
    found: dict[str, dict[str, int]] = {phrase: {} for phrase in PHRASES}
    for path in _prose(root):
        text = path.read_text(encoding="utf-8", errors="replace")
        for phrase, pattern in PHRASES.items():
            if count := len(re.findall(pattern, text, re.IGNORECASE)):
                found[phrase][str(path.relative_to(root))] = count
    return found


def _prose(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")) or path.name in EXEMPT or path.is_symlink():
            continue
        if path.is_dir():
            yield from _prose(path)
        else:
            yield path
