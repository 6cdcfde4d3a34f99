"""Tokens of registration: which are good for what, how they are read, and that nothing shows them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.settings import TokenSource
from exporter.errors import StartError
from exporter.keys import KeySource, Secret
from exporter.tokens import Token, Tokens, TokenWatch
from exporter.values import ALL_ENVIRONMENTS

if TYPE_CHECKING:
    from pathlib import Path

ALL, STAGING = "token-of-all", "token-of-staging"
TOKENS = Tokens((Token.of(Secret(ALL), None), Token.of(Secret(STAGING), frozenset({"staging"}))))


def test_a_token_is_good_for_its_environments() -> None:
    every, staging = TOKENS.find(f"Bearer {ALL}"), TOKENS.find(f"Bearer {STAGING}")
    assert every is not None
    assert staging is not None
    assert [every.allows(each) for each in ("production", "staging")] == [True, True]
    assert [staging.allows(each) for each in ("production", "staging")] == [False, True]
    assert every.token != staging.token


@pytest.mark.parametrize("header", [f"bearer {ALL}", f"BEARER   {ALL}", f"Bearer {ALL}  "])
def test_the_scheme_is_written_in_many_ways(header: str) -> None:
    assert TOKENS.find(header) == TOKENS.find(f"Bearer {ALL}") is not None


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", ALL, f"Basic {ALL}", f"Bearer {ALL}x", f"Bearer {ALL[:-1]}", f"Bearer {ALL} {ALL}",
     f"Bearer {ALL.upper()}", f" Bearer {ALL}", f"Bearer\t{ALL}", "Bearer \xe9\u20ac"],
)  # fmt: skip
def test_anything_else_is_good_for_nothing(header: str) -> None:
    assert TOKENS.find(header) is None


@given(st.text())
def test_any_header_can_be_judged(header: str) -> None:
    assert TOKENS.find(header) is None
    assert Tokens().find(header) is None


def test_without_tokens_nothing_is_good() -> None:
    assert not Tokens()
    assert TOKENS
    assert Tokens().find(f"Bearer {ALL}") is None
    assert Tokens().find("Bearer ") is None


@pytest.mark.parametrize(
    ("scopes", "good"),
    [
        ([frozenset({"a"}), frozenset({"b"})], {"a", "b"}),
        ([frozenset({"a"}), None], {"a", "b", "c"}),
        ([frozenset[str]()], set()),
    ],
)
def test_a_token_that_several_sources_hold_is_good_for_what_any_says(
    scopes: list[frozenset[str] | None], good: set[str]
) -> None:
    grant = Tokens(tuple(Token.of(Secret(ALL), each) for each in scopes)).find(f"Bearer {ALL}")
    assert grant is not None
    assert {each for each in "abc" if grant.allows(each)} == good


def test_nothing_shows_a_token() -> None:
    grant = TOKENS.find(f"Bearer {ALL}")
    for shown in (repr(TOKENS), str(TOKENS), repr(grant), f"{TOKENS.entries[0]}"):
        assert ALL not in shown
        assert "b'" not in shown, "nor its digest, from which a short one could be guessed"


# Reading them.


class Files:
    """Token files, whose age is set by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_800_000_000.0

    def write(self, name: str, text: str, age: float = 60.0) -> Path:
        path = self.folder / name
        path.write_text(text)
        os.utime(path, (self.now - age, self.now - age))
        return path


def source(path: Path, *environments: str) -> TokenSource:
    return TokenSource(KeySource(file=path), environments or (ALL_ENVIRONMENTS,))


def good(tokens: Tokens, *names: str) -> list[bool]:
    return [tokens.find(f"Bearer {name}") is not None for name in names]


def test_a_token_is_rotated_with_two_valid_at_a_time(tmp_path: Path) -> None:
    files = Files(tmp_path)
    old, new = files.write("old", "one\n"), files.write("new", "two\n")
    watch = TokenWatch([source(old), source(new, "staging")], {})
    assert good(watch.tokens, "one", "two", "three") == [True, True, False]
    before = watch.tokens
    assert watch.reload_if_changed(files.now, {}) is None
    assert watch.tokens is before

    files.write("old", "three")
    after = watch.reload_if_changed(files.now, {})
    assert after is watch.tokens
    assert good(watch.tokens, "one", "two", "three") == [False, True, True]
    grant = watch.tokens.find("Bearer three")
    assert grant is not None
    assert grant.environments is None
    assert good(before, "one", "three") == [True, False], "what is active never changes under a request"


def test_a_half_written_token_waits(tmp_path: Path) -> None:
    files = Files(tmp_path)
    watch = TokenWatch([source(files.write("token", "one"))], {})
    files.write("token", "tw", age=0.0)
    assert watch.reload_if_changed(files.now, {}) is None
    files.write("token", "two", age=0.0)
    assert watch.reload_if_changed(files.now, {}) is None
    assert good(watch.tokens, "one", "two", "tw") == [True, False, False]
    assert watch.reload_if_changed(files.now, {}) is watch.tokens
    assert good(watch.tokens, "one", "two") == [False, True]


def test_what_cannot_be_read_keeps_the_old_token(tmp_path: Path) -> None:
    files = Files(tmp_path)
    path = files.write("token", "one")
    watch = TokenWatch([source(path)], {})
    path.unlink()
    assert watch.reload_if_changed(files.now, {}) is None
    assert watch.problem == f"{path}: No such file or directory"
    files.write("token", "")
    assert watch.reload_if_changed(files.now, {}) is None
    assert watch.problem == f"{path} is empty"
    assert good(watch.tokens, "one") == [True]
    files.write("token", "one")
    assert watch.reload_if_changed(files.now, {}) is None
    assert watch.problem is None


def test_at_the_start_every_token_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(StartError) as told:
        TokenWatch([source(tmp_path / "nowhere")], {})
    assert str(told.value) == f"registration token: {tmp_path / 'nowhere'}: No such file or directory"
    bad = Files(tmp_path).write("bad", "secret words of mine")
    with pytest.raises(StartError) as told:
        TokenWatch([source(bad)], {})
    assert "secret" not in str(told.value)


def test_a_token_may_come_from_a_variable() -> None:
    sources = [TokenSource(KeySource(variable="TOKEN"))]
    assert good(TokenWatch(sources, {"TOKEN": "one"}).tokens, "one") == [True]


def test_no_sources_are_no_tokens() -> None:
    watch = TokenWatch([], {})
    assert not watch.tokens
    assert watch.reload_if_changed(0.0, {}) is None
