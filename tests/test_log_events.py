"""docs/log-events.md has each event that the code logs, with its level, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error", "critical": "critical"}


def _texts(node: ast.expr, function: ast.AST) -> Iterator[str]:
    """Yield what an expression may be: a text, one of two, or a variable of the function that has one of these."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp():
            yield from _texts(node.body, function)
            yield from _texts(node.orelse, function)
        case ast.Name():
            for each in ast.walk(function):
                if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == node.id:
                    yield from _texts(each.value, function)
        case _:
            raise AssertionError(f"an event that is not written out: {ast.unparse(node)}")


def _logged(source: str) -> Iterator[tuple[str, str]]:
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for call in ast.walk(function):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr in LEVELS and ast.unparse(call.func.value) in ("log", "self._log()"):
                found = list(_texts(call.args[0], function))
                assert found, ast.unparse(call)
                yield from ((text, LEVELS[call.func.attr]) for text in found)


def test_every_event_is_documented_and_no_other() -> None:
    logged = {event for file in (ROOT / "exporter").rglob("*.py") for event in _logged(file.read_text("utf-8"))}
    document = (ROOT / "docs" / "log-events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", document, re.MULTILINE)
    assert len(rows) > 50
    assert sorted(rows) == sorted(logged)


def test_texts_are_found_where_they_are_chosen() -> None:
    source = (
        'def f(a):\n    b = "x" if a else "y"\n    log.error(b)\n    self._log().exception("z")\n    log.debug("no")'
    )
    assert sorted(_logged(source)) == [("x", "error"), ("y", "error"), ("z", "error")]
