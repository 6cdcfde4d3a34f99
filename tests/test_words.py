"""The field's own words: in names, and in everything that is read."""

from pathlib import Path

from source import Package, used_twice
from words import own_words, phrases

ROOT = Path(__file__).parent.parent
PACKAGE = Package(ROOT / "exporter")


def test_no_name_is_a_word_of_our_own() -> None:
    assert own_words(PACKAGE) == {}, "docs/glossary.md and tools/words.py say what is meant"


def test_no_two_classes_share_a_name() -> None:
    assert used_twice(PACKAGE) == {}


def test_prose_is_plain() -> None:
    found = {phrase: files for phrase, files in phrases(ROOT).items() if files}
    assert found == {}
