"""Inputs made of valid documents: their structure is edited, then maybe their bytes.

An input is drawn from its number alone, so that each can be made again without those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    Edit = Callable[[bytearray, Random], None]

LARGEST = 64 * 1024  # bytes
EDITS_MOST = 4  # of the structure, and as many of the bytes

_NUMBERS = ("0", "-1", "1.5", "1e400", "-1e400", "1" * 5000, "9007199254740993", "1e-400", "0.1e1")
_TEXTS = (
    "", " ", "a", "all", "other", "default", "***", "sk_", "null", "\u2028", "\x7f", "\x85", "é" * 70, "\U0001f600",
    "a" * 300, "0" * 70_000, "2027-01-15T06:00:00Z", "0000-00-00T00:00:60Z", "9999-12-31T23:59:60-23:59", "5s", "1y",
    "99999999999999y", "123e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-000000000000",
    "../../list", "http://[::1", "http://a:99999/", "https://\u212a.example", "~", "*", "a/**/b", "%s%n{0}{x}",
    "\\ud800", "$2y$10$",
)  # fmt: skip
ODD_JSON = (
    *_NUMBERS, "true", "null", "NaN", "-Infinity", "[]", "{}", "[[[[]]]]", '{"": {}}', '[null, 1, "a", {}]', "-0",
    '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\u2028"', '"\ufeff"', "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "0" + "}" * 3000, '{"id": 1, "id": 2}',
    *(f'"{each}"' for each in _TEXTS if each.isprintable()),
)  # fmt: skip
ODD_YAML = (
    *_NUMBERS, "true", "no", "null", "", ".nan", "-.inf", "0x10", "010", "1:30", "1_000", "2027-01-15", "[]", "{}",
    "[[[[]]]]", "{'': {}}", "[null, 1, a, {}]", "*none", "&a [*a]", "&b {<<: *b}", "{<<: [{}, 5]}",
    "{<<: {a: 1}, a: 2}", "!!python/object:os.system {}", "!!binary aGk=", "!!set {a}", "!!int x", "!!float a",
    "!!str 5", "!!timestamp x", "!!omap [a: 1]", "!local a", "? [a]", "=", "<<", "!<tag:yaml.org,2002:value> a",
    "[" * 70 + "]" * 70, "{a: " * 70 + "0" + "}" * 70, "{a: 1, a: 2}", "{[a]: b}", "{5: a}", "{null: a}",
    "{2027-01-15: a}", *(f"'{each}'" for each in _TEXTS), '"\\ud800"', '"\\0"', '"\\x85\\u2028"', '"\\U0010ffff"',
    "|-\n    a", ">+\n  a",
)  # fmt: skip
TOKENS = (
    b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\r", b"\n", b"\t", b"\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xc0\x80", b"\\ud800", b"\\u0000", b"\\", b'"', b"'", b"[", b"]", b"{", b"}", b",", b":",
    b"- ", b"? ", b"# ", b"<<: ", b"*a", b"&a ", b"!!", b"!", b"%YAML 1.2\n---\n", b"---\n", b"...\n", b"|", b">",
    b"@", b"`", b"1e400", b"NaN", b"-0", b"null", b"!!python/object/apply:os.system [a]", b"0" * 5000, b"__proto__",
    b"${KNOCK_API_KEY}", b"{{ x }}", b"sk_", b"://", b"%00", b"%ff", b"%2e%2e%2f", b"\r\n\r\n", b"=", b";", b"$", b"~",
    b"[" * 2000, b'{"a":' * 2000, b"- " * 2000, b"a: {" * 500,
)  # fmt: skip


_START = attrgetter("start")


class Given(NamedTuple):
    """An input; `exact`: its bytes were not edited, so that what stands at a place is what was put there."""

    content: bytes
    exact: bool = True


class Value(NamedTuple):
    """A value in a document, by its characters; `key` is the span of its key, `whole` what to take away with it."""

    start: int
    end: int
    key: tuple[int, int] | None
    whole: tuple[int, int]


@dataclass(frozen=True)
class Seed:
    """A document. What has one of `kept` in it is neither renamed to a known key nor copied elsewhere."""

    text: str
    kept: tuple[str, ...] = ()

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """All values in it, by YAML's reading, which takes JSON too; the lines of what is neither."""
        try:
            root = yaml.compose(self.text, Loader=yaml.CSafeLoader)
        except yaml.YAMLError:
            root = None
        found = tuple(_values(root, self.text, set())) if root is not None else ()
        return found or tuple(_lines(self.text))

    @cached_property
    def copies(self) -> tuple[str, ...]:
        """Values that may stand anywhere: of one line, and none to be kept."""
        texts = (self.text[each.start : each.end] for each in self.values)
        return tuple(each for each in texts if "\n" not in each and not self.keeps(each))

    def keeps(self, text: str) -> bool:
        """Whether a part of it has to stay at its place."""
        return any(each in text for each in self.kept)


def _span(node: yaml.Node, text: str) -> tuple[int, int]:
    start, end = node.start_mark.index, node.end_mark.index
    return start, start + len(text[start:end].rstrip())


def _values(node: yaml.Node, text: str, seen: set[yaml.Node]) -> Iterator[Value]:
    if not isinstance(node, yaml.CollectionNode) or node in seen:
        return
    seen.add(node)
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(each, each) for each in node.value]
    spans = [(_span(first, text)[0], _span(value, text)[1]) for first, value in pairs]
    for number, (first, value) in enumerate(pairs):
        start, end = spans[number]
        if number + 1 < len(spans):
            whole = start, spans[number + 1][0]  # with what separates it from the next
        else:
            whole = spans[number - 1][1] if number else start, end
        found = Value(*_span(value, text), None if first is value else _span(first, text), whole)
        if whole[0] <= found.start <= found.end <= whole[1]:  # an alias has the place of what it names
            yield found
            yield from _values(value, text, seen)


def _lines(text: str) -> Iterator[Value]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield Value(start, start + len(line.rstrip("\r\n")), None, (start, start + len(line)))
        start += len(line)


@dataclass(frozen=True)
class Corpus:
    """Documents of one language, with what may take the place of their values and keys."""

    seeds: Sequence[Seed]
    odd: Sequence[str]
    keys: Sequence[str]
    secrets: Sequence[str] = ()  # as values: in places where they do not belong
    quote: str = '"'  # around keys: JSON's

    def text(self, rng: Random) -> str:
        """Draw a document, mostly with a few edits of its structure."""
        seed = rng.choice(self.seeds)
        text, values = seed.text, seed.values
        if not values or rng.random() < 0.1:
            return text
        chosen = sorted({rng.choice(values) for _ in range(_few(rng))}, key=_START, reverse=True)
        before = len(text)
        for value in chosen:
            # From the end, so that places stay; what lies in an edited part is left alone.
            if max(value.end, value.whole[1]) <= before:
                start, end, new = self._edit(seed, value, rng)
                text = text[:start] + new + text[end:]
                before = start
        return text

    def _edit(self, seed: Seed, value: Value, rng: Random) -> tuple[int, int, str]:
        text, kind = seed.text, rng.random()
        (first, last), old = value.whole, text[value.start : value.end]
        if kind < 0.45:
            return value.start, value.end, self._value(rng)
        if kind < 0.6 and value.key is not None:
            known = not seed.keeps(old)
            key = (
                rng.choice(self.keys)
                if known and rng.random() < 0.7
                else f"x{text[slice(*value.key)].strip(self.quote)}"
            )
            return *value.key, f"{self.quote}{key}{self.quote}"
        if kind < 0.75:
            return first, last, ""
        if kind < 0.85:
            return first, last, text[first:last] * 2
        if "\n" in old:
            return first, last, text[first:last] * 2
        pattern = rng.choice(("[{}]", "[[{}]]", "[{0}, {0}]", "{{" + self.quote + "id" + self.quote + ": {}}}"))
        return value.start, value.end, pattern.format(old)

    def _value(self, rng: Random) -> str:
        kind = rng.random()
        if self.secrets and kind < 0.2:
            return rng.choice(self.secrets)
        if kind < 0.5:
            return rng.choice(rng.choice(self.seeds).copies or self.odd)
        return rng.choice(self.odd)

    def draw(self, rng: Random) -> Given:
        """Draw a document, and in two of five cases edit its bytes."""
        content = self.text(rng).encode("utf-8", "surrogatepass")
        return Given(content[:LARGEST]) if rng.random() < 0.6 else Given(edited(content, rng), exact=False)


def _few(rng: Random) -> int:
    return 1 + int(rng.random() ** 3 * EDITS_MOST)


def edited(content: bytes, rng: Random) -> bytes:
    """Edit some of the bytes."""
    changed = bytearray(content)
    for _ in range(_few(rng)):
        rng.choice(_EDITS)(changed, rng)
    return bytes(changed[:LARGEST])


def _place(content: bytearray, rng: Random) -> int:
    return int(rng.random() * (len(content) + 1))


def _part(content: bytearray, rng: Random) -> tuple[int, int]:
    start = _place(content, rng)
    return start, min(len(content), start + 1 + int(rng.random() ** 3 * 64))


def _flip(content: bytearray, rng: Random) -> None:
    if content:
        content[int(rng.random() * len(content))] ^= 1 << int(rng.random() * 8)


def _overwrite(content: bytearray, rng: Random) -> None:
    start, end = _part(content, rng)
    content[start:end] = rng.randbytes(end - start)


def _cut(content: bytearray, rng: Random) -> None:
    start, end = _part(content, rng)
    del content[start:end]


def _end(content: bytearray, rng: Random) -> None:
    del content[_place(content, rng) :]


def _double(content: bytearray, rng: Random) -> None:
    start, end = _part(content, rng)
    content[start:start] = content[start:end]


def _move(content: bytearray, rng: Random) -> None:
    start, end = _part(content, rng)
    part = content[start:end]
    del content[start:end]
    place = _place(content, rng)
    content[place:place] = part


def _insert(content: bytearray, rng: Random) -> None:
    place = _place(content, rng)
    content[place:place] = rng.choice(TOKENS)


def _many(content: bytearray, rng: Random) -> None:
    if rng.random() < 0.05:
        start, end = _part(content, rng)
        content[start:start] = content[start:end] * (LARGEST // max(1, end - start))
    else:
        _double(content, rng)


def _lines_end(content: bytearray, rng: Random) -> None:
    content[:] = content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b" \n", b"")))


def _other_encoding(content: bytearray, rng: Random) -> None:
    if rng.random() < 0.1:
        text = content.decode("utf-8", "replace")
        content[:] = text.encode(rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32-le")), "replace")
    else:
        _flip(content, rng)


_EDITS: tuple[Any, ...] = (
    _flip, _flip, _overwrite, _cut, _cut, _end, _double, _move, _insert, _insert, _insert, _many, _lines_end,
    _other_encoding,
)  # fmt: skip
