"""The field's own words: in names, and in everything that is read."""

import re
from collections import Counter
from pathlib import Path

from source import Package, used_twice
from words import own_words, phrases

ROOT = Path(__file__).parent.parent
PACKAGE = Package(ROOT / "exporter")
FIXTURE = re.compile(r"^@pytest\.fixture\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)", re.MULTILINE)


def test_no_name_is_a_word_of_our_own() -> None:
    assert own_words(PACKAGE) == {}, "docs/glossary.md and tools/words.py say what is meant"


def test_no_two_classes_share_a_name() -> None:
    assert used_twice(PACKAGE) == {}


def test_a_fixture_is_defined_once() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    found = Counter(name for text in texts for name in FIXTURE.findall(text))
    assert len(found) > 20
    assert {name for name, times in found.items() if times > 1} == set(), "of the same name, it means the same thing"


def test_prose_is_plain() -> None:
    found = {phrase: files for phrase, files in phrases(ROOT).items() if files}
    assert found == {}
