"""YAML as plain values that remember their lines.

PyYAML's own constructor is not used: it drops doubled keys without a word, forgets lines, and raises half a dozen kinds
of errors. Its messages are not used as they are: they quote the file, which may hold a key.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from exporter import files
from exporter.errors import ConfigError, ConfigProblem, Found, redact, redact_all
from exporter.garbage_collection import no_garbage_collection
from exporter.values import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from exporter.errors import Loc

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML built without libyaml: ten times slower, otherwise the same
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

PROBLEMS_SHOWN = 50
MESSAGE_LONGEST = 1000  # characters of a problem's path and of its message
DEEPEST = 64  # deeper nesting overflows the stack of libyaml's caller, which kills the process
UNBOUNDED = 2**60
COPIES_MOST = 100_000  # of what merge keys (<<) copy: it can grow with the square of a file
_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset(_TAG + name for name in ("str", "timestamp", "value", "merge"))
_NUMBERS = frozenset({_TAG + "int", _TAG + "float"})
_PREFIXED = re.compile(r"[-+]?0[bx]")
_OCTAL = re.compile(r"[-+]?0[0-9]+")
_TAGGED = "tags are not supported (remove the ! and the word behind it, or put the text in quotes)"
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_FORBIDDEN = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.1, 5.1
_TOKEN = re.compile(r"'(?:.|\\.|<[a-z ]+>)'")  # what PyYAML may quote: signs and names of tokens, nothing of the file
_SCRAP = re.compile(r"(['\"]).*\1", re.DOTALL)


class NoDocument(ConfigError):
    """A file that holds comments at most."""


class _Loader(_SafeLoader):
    depth = 0
    left = UNBOUNDED

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:  # noqa: ARG002 - PyYAML calls it so
        self.left -= 1
        if self.left < 0:
            raise yaml.MarkedYAMLError(problem="too many values", problem_mark=current_node.start_mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=current_node.start_mark)

    def ascend_resolver(self) -> None:
        self.depth -= 1


class Document:
    """A parsed file: `data` in plain values, `found` what YAML itself forbids, and the way back to the lines."""

    def __init__(self, root: yaml.Node, builder: _Builder) -> None:
        self._root = root
        self._children: dict[yaml.Node, dict[str, tuple[yaml.Node, int]]] = {}
        self.data = builder.build(root, ())
        self.found = builder.found
        self.unusable = builder.unusable  # places whose value is not in `data`: nothing more is to be said of them

    def error(self, source: str, found: Iterable[Found]) -> ConfigError:
        """Make the error of what was found, in the order of the file: PROBLEMS_SHOWN, and how many more."""
        placed = sorted(((each.line or self.line(each.loc), each) for each in found), key=lambda pair: pair[0])
        shown = tuple(self._problem(each) for _, each in placed[:PROBLEMS_SHOWN])
        files_at_fault = tuple(each.file for _, each in placed if each.file is not None)
        mended_by = files_at_fault if len(files_at_fault) == len(placed) else ()
        return ConfigError(source, shown, len(placed) - len(shown), mended_by)

    def _problem(self, found: Found) -> ConfigProblem:
        """Look up where it is and make sure that it shows no key."""
        line, path = self._locate(found.loc)
        message = found.message if isinstance(found.message, str) else found.message()
        return ConfigProblem(_bounded(redact_all(path)), _bounded(redact_all(message)), found.line or line)

    def line(self, loc: Loc) -> int:
        """Return the line of a place, counted from 1; of a missing key, the line of its mapping."""
        return self._locate(loc)[0]

    def _locate(self, loc: Loc) -> tuple[int, str]:
        node: yaml.Node | None = self._root
        line, path = self._root.start_mark.line + 1, ""
        for part in loc:
            if not isinstance(node, yaml.CollectionNode):
                break  # the models see `{id: x}` where the file has `x`
            path += _step(path, part)
            node, line = self._child(node, part, line)
        return line, path

    def _child(self, node: yaml.CollectionNode, part: str | int, line: int) -> tuple[yaml.Node | None, int]:
        if isinstance(part, int):
            return node.value[part], node.value[part].start_mark.line + 1
        if node not in self._children:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            self._children[node] = {key.value: (value, key.start_mark.line + 1) for key, value in pairs}
        return self._children[node].get(part, (None, line))


def _odd_notation(text: str) -> str:
    """Name the notation of YAML 1.1 in which a number is not what it looks like; "" for decimal digits."""
    if ":" in text:
        return "base 60, where 1:30 is 90 and a duration is 1m30s"
    if "_" in text:
        return "digits with _ between them"
    if _PREFIXED.match(text):
        return "base 2 or 16"
    return "base 8, where 010 is 8" if _OCTAL.fullmatch(text) else ""


def _bounded(text: str) -> str:
    return text if len(text) <= MESSAGE_LONGEST else f"{text[:MESSAGE_LONGEST]}…"


def _step(path: str, part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    shown = part if _PLAIN_KEY.fullmatch(part) else quoted(part)
    return f".{shown}" if path else shown


def read_document(path: Path, *, pipe_seconds: float = 0.0) -> Document:
    """Read and parse a file (with `pipe_seconds`, a pipe too). Raises ConfigError for what cannot be read or used."""
    return parse_document(_read_text(path, pipe_seconds), str(path))


def parse_document(text: str, source: str, most: int = UNBOUNDED) -> Document:
    """Parse a text of at most so many values. Raises ConfigError for what is not YAML."""
    with no_garbage_collection():
        return _parse(text, source, most)


def _parse(text: str, source: str, most: int) -> Document:
    try:
        loader = _Loader(text)
        loader.left = most
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(source, (_syntax_problem(error),)) from None
    except yaml.reader.ReaderError:
        raise ConfigError(source, (_character_problem(text),)) from None
    if root is None:
        raise NoDocument(source, (ConfigProblem("", "is empty (expected at least environments)"),))
    return Document(root, _Builder(loader))


def _read_text(path: Path, pipe_seconds: float) -> str:
    try:
        content = files.read(path, files.BYTES_MOST, pipe_seconds=pipe_seconds)
    except OSError as error:
        raise ConfigError(str(path), (ConfigProblem("", f"cannot be read: {error.strerror}"),)) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), (ConfigProblem("", "is not UTF-8 text (save it as UTF-8)", line),)) from None


def _syntax_problem(error: yaml.MarkedYAMLError) -> ConfigProblem:
    mark, reason = error.problem_mark, _without_scraps(error.problem or "it cannot be read")
    if error.context:
        begun = f" that begins on line {error.context_mark.line + 1}" if error.context_mark else ""
        reason = f"{reason} ({_without_scraps(error.context)}{begun})"
    if "cannot start any token" in reason:
        reason += "; indent with spaces, not tabs, and put text that begins with %, @ or ` in quotes"
    if "tab character" in reason:
        reason += "; indent with spaces"
    column = f" at column {mark.column + 1}" if mark else ""
    return ConfigProblem("", f"is not valid YAML{column}: {reason}", mark.line + 1 if mark else None)


def _without_scraps(text: str) -> str:
    return redact(_SCRAP.sub("…", text) if _SCRAP.search(_TOKEN.sub("", text)) else text)


def _character_problem(text: str) -> ConfigProblem:
    match = _FORBIDDEN.search(text)
    before = text[: match.start()] if match else ""
    column = len(before) - before.rfind("\n")
    message = f"is not valid YAML at column {column}: a control or special character (remove it)"
    return ConfigProblem("", message, before.count("\n") + 1)


class _Builder:
    """Turns nodes into plain values; merge keys (`<<`) are resolved in the nodes too, so that lines can be found."""

    def __init__(self, loader: _Loader) -> None:
        self.found: list[Found] = []
        self.unusable: set[Loc] = set()
        self._scalars = {
            _TAG + "null": loader.construct_yaml_null,
            _TAG + "bool": loader.construct_yaml_bool,
            _TAG + "int": loader.construct_yaml_int,
            _TAG + "float": loader.construct_yaml_float,
        }
        self._done: dict[yaml.Node, Any] = {}
        self._open: set[yaml.Node] = set()
        self._copies = COPIES_MOST

    def build(self, node: yaml.Node, loc: Loc) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        if node in self._open:
            return self._refuse(loc, "an alias (*) must not stand inside of what it names", node)
        if node not in self._done:
            self._open.add(node)
            self._done[node] = self._collection(node, loc)
            self._open.remove(node)
        return self._done[node]

    def _add(self, loc: Loc, message: str, node: yaml.Node) -> None:
        self.found.append(Found(loc, message, node.start_mark.line + 1))

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Any:
        if node.tag in _TEXT_TAGS:
            return node.value
        if node.tag not in self._scalars:
            return self._refuse(loc, _TAGGED, node)
        if node.tag in _NUMBERS and (kind := _odd_notation(node.value)):
            return self._refuse(
                loc, f"is a number in {kind} (write it in decimal digits; in quotes if it is text)", node
            )
        try:
            return self._scalars[node.tag](node)
        except (ValueError, LookupError, OverflowError):  # such as `!!int x`, and numbers too long for Python
            return self._refuse(loc, "is not what its tag says, or too long a number", node)

    def _refuse(self, loc: Loc, message: str, node: yaml.Node) -> None:
        self.unusable.add(loc)
        self._add(loc, message, node)

    def _collection(self, node: yaml.Node, loc: Loc) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._refuse(loc, _TAGGED, node)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        pairs = self._own_pairs(node, loc)
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                for name, pair in self._merged_pairs(value, loc):
                    pairs.setdefault(name, pair)
        node.value = list(pairs.values())
        return {name: self.build(value, (*loc, name)) for name, (_, value) in pairs.items()}

    def _own_pairs(self, node: yaml.MappingNode, loc: Loc) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TEXT_TAGS:
                self._add(loc, "a key must be text (put it in quotes; yes, no, on and off are not text in YAML)", key)
            elif key.value in pairs:
                first = pairs[key.value][0].start_mark.line + 1
                self._add((*loc, key.value), f"is a duplicate (first on line {first}): keep one", key)
            else:
                pairs[key.value] = (key, value)
        return pairs

    def _merged_pairs(self, node: yaml.Node, loc: Loc) -> list[tuple[str, tuple[yaml.Node, yaml.Node]]]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: list[tuple[str, tuple[yaml.Node, yaml.Node]]] = []
        for source in sources:
            built = self.build(source, loc)
            if source in self._open:
                continue  # it holds itself, which is reported already
            if not isinstance(built, dict):
                self._add(loc, "<< takes a mapping, or a list of mappings", node)
                continue
            self._copies -= len(source.value)
            if self._copies < 0:
                self._add(loc, "<< copies too much (write the keys themselves)", node)
                return merged
            merged.extend((key.value, (key, value)) for key, value in source.value)
        return merged
