"""The field's own words: in names, and in everything that is read."""

import ast
from collections import Counter
from pathlib import Path

from source import Package, used_twice
from words import own_words, phrases

ROOT = Path(__file__).parent.parent
PACKAGE = Package(ROOT / "exporter")


def test_no_name_is_a_word_of_our_own() -> None:
    assert own_words(PACKAGE) == {}, "docs/glossary.md and tools/words.py say what is meant"


def test_no_two_classes_share_a_name() -> None:
    assert used_twice(PACKAGE) == {}


def test_a_fixture_is_defined_once() -> None:
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py")]
    functions = [node for module in modules for node in module.body if isinstance(node, ast.FunctionDef)]
    found = Counter(each.name for each in functions if "pytest.fixture" in map(_called, each.decorator_list))
    assert {name for name, times in found.items() if times > 1} == set(), "of the same name, it means the same thing"


def _called(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)


def test_prose_is_plain() -> None:
    found = {phrase: files for phrase, files in phrases(ROOT).items() if files}
    assert found == {}
