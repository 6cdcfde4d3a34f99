"""Keys: where they come from, how they stay hidden, and when a new one counts."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.errors import redact, redact_all
from exporter.files import SETTLED_SECONDS
from exporter.keys import InvalidKey, KeySource, KeyWatch, Masking, Secret, doubt, exposure, parse_key

OLD, NEW = "sk_test_old", "sk_test_new"
WALL = 1_700_000_000.0


def test_a_secret_does_not_show() -> None:
    secret = Secret(OLD)
    holder = KeySource(inline=secret)
    assert OLD not in f"{secret} {secret!r} {secret!s} {[secret]} {holder!r} {vars(type(secret))}"
    assert secret.reveal() == OLD


def test_secrets_are_equal_by_value() -> None:
    assert Secret(OLD) == Secret(OLD)
    assert hash(Secret(OLD)) == hash(Secret(OLD))
    assert Secret(OLD) != Secret(NEW)
    assert Secret(OLD) != OLD


@pytest.mark.parametrize("text", [OLD, f"{OLD}\n", f"  {OLD}\r\n\t", f"\n\n{OLD}\n", f"\ufeff{OLD}\n"])
def test_white_space_around_a_key_is_not_part_of_it(text: str) -> None:
    assert parse_key(text) == Secret(OLD)


@pytest.mark.parametrize("text", ["", " \n", f"{OLD}\n{NEW}", f"{OLD} x", "sk_\x00", "sk_é", "sk_\r\nX: y", "sk_\x7f"])
def test_what_is_not_a_key(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        parse_key(text)
    assert "sk_" not in str(caught.value)


def message_of(source: KeySource) -> str:
    with pytest.raises(InvalidKey) as caught:
        source.read({"EMPTY": " "})
    assert OLD not in str(caught.value)
    return str(caught.value)


def test_sources(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{OLD}\n")
    assert KeySource(file=file).read({}) == Secret(OLD)
    assert KeySource(variable="KEY").read({"KEY": OLD}) == Secret(OLD)
    assert KeySource(inline=Secret(OLD)).read({}) == Secret(OLD)


def test_sources_that_hold_no_key_name_themselves(tmp_path: Path) -> None:
    file = tmp_path / "key"
    source = KeySource(file=file)
    assert message_of(source) == f"{file}: No such file or directory"
    file.write_bytes(b"\xff\xfe")
    assert message_of(source) == f"{file}: is not a text file"
    file.write_text("")
    assert message_of(source) == f"{file} is empty"
    file.write_text(f"{OLD} {OLD}")
    assert message_of(source).startswith(f"{file} holds white space")
    assert message_of(KeySource(file=tmp_path)) == f"{tmp_path}: Is a directory"
    assert message_of(KeySource(variable="KEY")) == "environment variable KEY is not set"
    assert message_of(KeySource(variable="EMPTY")) == "environment variable EMPTY is empty"
    assert message_of(KeySource(inline=Secret(""))) == "the key is empty"
    assert message_of(KeySource()) == "no source is set"


@dataclass
class Watched:
    """A key file under watch, with the clocks of file and looker in the test's hands."""

    file: Path
    watch: KeyWatch

    def write(self, text: str, *, at: float = WALL) -> None:
        self.file.write_text(text)
        os.utime(self.file, (at, at))

    def reload_if_changed(self, *, at: float = WALL) -> Secret | None:
        return self.watch.reload_if_changed(at, {})


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    file = tmp_path / "key"
    found = Watched(file, KeyWatch(KeySource(file=file), Secret(OLD)))
    found.write(OLD, at=WALL - 100)
    return found


def test_the_same_key_is_not_news(watched: Watched) -> None:
    assert watched.reload_if_changed() is None
    watched.write(f"{OLD}\n")
    assert watched.reload_if_changed() is None
    assert watched.reload_if_changed(at=WALL + 60) is None


def test_a_settled_file_counts_at_once_and_once(watched: Watched) -> None:
    watched.write(NEW, at=WALL - SETTLED_SECONDS)
    assert watched.reload_if_changed() == Secret(NEW)
    assert watched.reload_if_changed() is None


def test_a_fresh_file_counts_when_two_looks_agree(watched: Watched) -> None:
    watched.write(NEW)
    assert watched.reload_if_changed() is None
    assert watched.reload_if_changed() == Secret(NEW)
    assert watched.reload_if_changed() is None


def test_a_half_written_file_does_not_count(watched: Watched) -> None:
    watched.write(NEW[:-3])
    assert watched.reload_if_changed() is None
    watched.write(NEW, at=WALL + 0.5)
    assert watched.reload_if_changed(at=WALL + 0.5) is None
    assert watched.reload_if_changed(at=WALL + 0.6) == Secret(NEW)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("two words", "holds white space or other characters that no key has (one key, on one line?)"),
    ],
)
def test_an_empty_or_broken_file_keeps_the_old_key_and_is_told(watched: Watched, broken: str, problem: str) -> None:
    watched.write(broken, at=WALL - 100)
    assert watched.reload_if_changed() is None
    assert watched.watch.problem == f"{watched.file} {problem}"
    assert watched.watch.current == Secret(OLD)
    watched.write(OLD)
    assert watched.reload_if_changed() is None
    assert watched.watch.problem is None


def test_what_was_seen_before_a_break_does_not_count_as_a_look(watched: Watched) -> None:
    watched.write(NEW)
    assert watched.reload_if_changed() is None
    watched.write("")
    assert watched.reload_if_changed() is None
    watched.write(NEW)
    assert watched.reload_if_changed() is None
    assert watched.reload_if_changed() == Secret(NEW)


def test_a_file_that_went_away_keeps_the_old_key(watched: Watched) -> None:
    watched.file.unlink()
    assert watched.reload_if_changed() is None
    assert watched.watch.problem == f"{watched.file}: No such file or directory"


def test_a_file_from_the_future_needs_two_looks(watched: Watched) -> None:
    watched.write(NEW, at=WALL + 9999)
    assert watched.reload_if_changed() is None
    assert watched.reload_if_changed() == Secret(NEW)


def test_back_to_the_old_key_before_it_settled_is_not_news(watched: Watched) -> None:
    watched.write(NEW)
    assert watched.reload_if_changed() is None
    watched.write(OLD)
    assert watched.reload_if_changed() is None
    assert watched.reload_if_changed() is None


def test_it_is_told_whether_a_content_may_not_be_whole(watched: Watched) -> None:
    watched.write(NEW)
    watched.reload_if_changed()
    assert watched.watch.unsettled
    watched.reload_if_changed()
    assert not watched.watch.unsettled


def test_a_variable_counts_at_once() -> None:
    watch = KeyWatch(KeySource(variable="KEY"), Secret(OLD))
    assert watch.reload_if_changed(WALL, {"KEY": OLD}) is None
    assert watch.reload_if_changed(WALL, {"KEY": NEW}) == Secret(NEW)
    assert watch.reload_if_changed(WALL, {}) is None
    assert watch.problem == "environment variable KEY is not set"


def test_a_named_pipe_is_refused_and_does_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "knock.key"
    os.mkfifo(pipe)
    with pytest.raises(InvalidKey, match="is not a regular file"):
        KeySource(file=pipe).read({})


def test_a_file_longer_than_any_key_is_refused_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "knock.key"
    path.write_text("sk_" + "a" * 9000)
    with pytest.raises(InvalidKey, match="is larger than 4096 bytes"):
        KeySource(file=path).read({})


def test_a_path_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidKey, match="is not a path"):
        KeySource(file=Path("a\0b")).read({})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f'"{OLD}"', "is in quotes (remove them)"),
        (f"'{OLD}'", "is in quotes (remove them)"),
        (f"KNOCK_API_KEY={OLD}", "holds an assignment (expected the key alone, without what is before the =)"),
        ("pk_test_0123456789", 'is a public key (expected the secret one, which begins with "sk_")'),
        ("${KNOCK_API_KEY}", "is a placeholder that nothing has replaced by the key"),
        ("$KNOCK_API_KEY", "is a placeholder that nothing has replaced by the key"),
        ("{{secrets.knock}}", "is a placeholder that nothing has replaced by the key"),
        ("<your-key>", "is a placeholder that nothing has replaced by the key"),
        ("***", "is a mask or a beginning (expected the whole key)"),
        ("sk_***", "is a mask or a beginning (expected the whole key)"),
        ("sk_test_xxxxxxxx", "is a mask or a beginning (expected the whole key)"),
        (b64encode(OLD.encode()).decode(), "is encoded in base64 (decode it first)"),
        (b64encode(f"{OLD}\n".encode()).decode(), "is encoded in base64 (decode it first)"),
    ],
)
def test_what_cannot_be_a_key_of_knock_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    assert message_of(KeySource(file=file, knock=True)) == f"{file} {problem}"
    with pytest.raises(InvalidKey) as caught:
        KeySource(variable="KEY", knock=True).read({"KEY": text})
    assert str(caught.value) == f"environment variable KEY {problem}"
    assert KeySource(file=file).read({}) == Secret(text)  # a token may be anything
    assert redact(problem) == problem  # what is masked takes nothing else along


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("a sk_0123, b", "a sk_***, b"),
        ("pk_0123", "pk_***"),
        ("x_sk_0123", "x_sk_***"),
        ("KEYsk_live_0123", "KEYsk_***"),
        ("task_id", "task_id"),
        ("user_pk_id", "user_pk_id"),
    ],
)
def test_what_looks_like_a_key_is_masked(text: str, masked: str) -> None:
    assert redact(text) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('"http://me:pass@host:1/a?b=c" d?e=f', '"http://***@host:1/a?***" d?e=f'),
        ("/folder/http:/me:p@ss@host: No such file", "/folder/http:/***@host: No such file"),
        ("HTTPS://me@host and https://host/?x and sk_0123", "HTTPS://***@host and https://host/?*** and sk_***"),
        ("https://ids.example/operations, https://host/a", "https://ids.example/operations, https://host/a"),
        ("http://me:p/a?s#s@host:1/", "http://***@host:1/"),
        ("a@b?c=d", "a@b?c=d"),
        ("hhttp://me:pass@host", "hhttp://***@host"),
        ('"prometheus:$2y$10$X0h1gDsPszWURQaxFh" $2$5', '"prometheus:$2y$***" $2$***'),
    ],
)
def test_urls_and_hashes_are_shown_without_what_may_be_secret(text: str, masked: str) -> None:
    assert redact_all(text) == masked


@pytest.mark.parametrize(
    ("body", "masked"),
    [
        ('{"a": "x to/ken-1 y"}', '{"a": "x *** y"}'),
        (r'{"a": "to\/ken-1"}', '{"a": "***"}'),
        (r'{"a": "\u0074\u006F\u002fken-1", "b": "\u00e4\n"}', r'{"a": "***", "b": "\u00e4\n"}'),
        (r'{"a": "quo\"ted\\secret"}', '{"a": "***"}'),
        (r'{"a": "\u00fcber\u20ac-key"}', '{"a": "***"}'),
        (r'{"a": "\u0022to/ken-1\u005c\u0022"}', r'{"a": "\u0022***\u005c\u0022"}'),
        (r'{"a": "\\u0074o/ken-1"}', None),  # a backslash and the letters u0074
        ('{"a": "short"}', None),
    ],
)
def test_what_a_server_sends_back_is_masked_in_json(body: str, masked: str | None) -> None:
    masking = Masking("to/ken-1", "über€-key", 'quo"ted\\secret', "short", "")
    given = bytearray(body.encode())
    found = masking.json(given)
    if masked is None:
        assert found is given
    else:
        assert found == masked.encode()
        assert json.loads(found) == json.loads(masked)
    assert Masking().json(given) is given
    assert "to/ken" not in repr(masking)


def test_of_secrets_that_hold_each_other_nothing_is_left() -> None:
    assert Masking("abcd1234", "abcd1234-and-more").text("x abcd1234-and-more, abcd1234") == "x ***, ***"


@pytest.mark.parametrize("text", ["sk_live_a=b", "abcdef", "c2tf", "0123=", "sk_xX1", "key-without-beginning=="])
def test_what_may_be_a_key_is_taken_and_doubted(text: str) -> None:
    assert KeySource(inline=Secret(text), knock=True).read({}) == Secret(text)
    assert (doubt(Secret(text)) is None) == text.startswith("sk_")


def test_the_mode_of_a_secret_that_no_other_user_can_reach_is_passed_over(open_folder: Path) -> None:
    file = open_folder / "key"
    file.write_text("sk_test_1")
    file.chmod(0o644)
    writable = os.statvfs(file)
    assert not writable.f_flag & os.ST_RDONLY
    read_only = os.statvfs_result((*writable[:8], os.ST_RDONLY, writable[9]))
    assert exposure(file, lambda _path: writable) == f"can be read by other users (mode 0644; chmod o-r {file})"
    assert exposure(file, lambda _path: read_only) is None
    open_folder.chmod(0o700)
    assert exposure(file, lambda _path: writable) is None
    assert exposure(open_folder / "none") is None
