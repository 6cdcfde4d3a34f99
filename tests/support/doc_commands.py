"""The commands of the documents, as a shell would split them; and what is wrong with them."""

from __future__ import annotations

import re
import shlex
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import click
from registration_service import FakeService
from starlette.routing import Match

from exporter.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
OTHERS = ("README.md", "CONTRIBUTING.md", "helm/knock-exporter/README.md", "monitoring/README.md")
DOCUMENTS = sorted([*(ROOT / name for name in OTHERS), *ROOT.glob("docs/**/*.md")])
_FENCE = re.compile(r"^ *```(?P<kind>sh|bash|shell|console)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_IS_COMMAND = re.compile(r"(?:^|.* |\S*/)knock-exporter [a-z<-]|make [a-z]|curl |(?:\S*/)?python3? -m exporter")
# Of a console: lines that a command writes, and the prompt before one.
_OUTPUT = re.compile(r"(?<!\\\n)^(?![ \t]*\$ ).*$|(?<!\\\n)^[ \t]*\$ ", re.MULTILINE)
_HERE = re.compile(r"<<'?(?P<end>\w+)'?\n(?P<body>.*?^)\s*(?P=end)$", re.MULTILINE | re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<skip>[ \t]+|\\\n|(?<![^\s;&|()])\#[^\n]*)
    |(?P<end>[\n;&|()]|[<>]\()
    |(?P<word>(?:\{\{.*?\}\}|'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s;&|()'"\\])+)""",
    re.VERBOSE | re.DOTALL,
)
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
_BEFORE = {"sudo", "if", "while", "then", "do", "!", "{", "exec", "time", "…"}
# GROUP and config-NAME.yaml stand for what the reader puts in, $run for what the shell does.
_PLACEHOLDER = re.compile(r"[A-Z]{2}|^[A-Z]$|…|\$|%|\{\{")
_URL = re.compile(r"(?:https?://)?(?:localhost|127\.0\.0\.1):10187/\S*")
_SENDS = ("-d", "--data", "--data-binary", "--json")


class Command(NamedTuple):
    """One simple command, and where it stands."""

    file: Path
    line: int
    words: tuple[str, ...]

    def exporter_words(self) -> tuple[str, ...] | None:
        """Return what follows `knock-exporter`; None where it calls something else."""
        words = self.words
        if "--" in words:  # kubectl exec POD -- knock-exporter …
            words = words[words.index("--") + 1 :]
        elif words[:2] == ("docker", "exec"):  # docker exec [FLAGS] CONTAINER knock-exporter …
            words = tuple(dropwhile(lambda word: word.startswith("-"), words[2:]))[1:]
        match words:
            case (program, *rest) if Path(program).name == "knock-exporter":
                return tuple(rest)
            case (program, "-m", "exporter", *rest) if Path(program).name.startswith("python"):
                return tuple(rest)
        return None

    def problems(self) -> Iterator[str]:
        """Yield what a reader could not run, with file and line."""
        where = f"{self.file.relative_to(ROOT)}:{self.line}"
        words = self.exporter_words()
        found = [] if words is None else list(_exporter_problems(list(words)))
        if self.words[0] == "make":
            found += [f"no target {each}" for each in self._targets() if each not in targets()]
        for word in self.words:
            if (url := _URL.search(word)) and not is_route(self._method(), urlsplit(url[0]).path or "/"):
                found.append(f"no route for {self._method()} {url[0]}")
        yield from (f"{where}: {shlex.join(self.words)}: {each}" for each in found)

    def _targets(self) -> list[str]:
        return [each for each in self.words[1:] if not each.startswith("-") and not _ASSIGNED.match(each)]

    def _method(self) -> str:
        if "-X" in self.words:
            return self.words[self.words.index("-X") + 1]
        return "POST" if self.words[0] == "curl" and set(_SENDS) & set(self.words) else "GET"


@cache
def targets() -> frozenset[str]:
    """Return the targets of the Makefile that one may ask for."""
    return frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@cache
def routes() -> tuple[Any, ...]:
    """Return what the exporter answers at its port."""
    app: Any = FakeService().app()
    return tuple(app.routes)


def is_route(method: str, path: str) -> bool:
    """Return whether the exporter has such a path, and takes this method there."""
    path = re.sub(r"[$…].*?(?=/|$)|[{}]", "x", path)
    scope = {"type": "http", "method": method, "path": path}
    return any(route.matches(scope)[0] is Match.FULL for route in routes())


def commands(file: Path, text: str | None = None) -> Iterator[Command]:
    """Yield the commands of a document: of its shell blocks, and of code between words."""
    text = file.read_text(encoding="utf-8") if text is None else text
    rest = text
    for fence in _FENCE.finditer(text):
        rest = rest.replace(fence[0], "\n" * fence[0].count("\n"), 1)
        body = fence["body"]
        if fence["kind"] == "console":
            body = _OUTPUT.sub("", body)
        yield from _split(file, text.count("\n", 0, fence.start("body")) + 1, body)
    for number, line in enumerate(rest.split("\n"), start=1):
        for code in _INLINE.findall(line):
            shown = code.replace(r"\|", "|")  # as a table has to write it
            if _IS_COMMAND.match(shown):
                yield from _split(file, number, shown)


def configurations(file: Path) -> list[str]:
    """Return the configurations that the shell blocks of a document write."""
    text = file.read_text(encoding="utf-8")
    blocks = [here["body"] for fence in _FENCE.finditer(text) for here in _HERE.finditer(fence["body"])]
    return [each for each in blocks if each.startswith("environments:")]


def _split(file: Path, first: int, body: str) -> Iterator[Command]:
    body = _HERE.sub(lambda here: "\n" * here[0].count("\n"), body)
    words, line, at = list[str](), first, 0
    while at < len(body):
        token = _TOKEN.match(body, at)
        assert token is not None, f"{file}:{first + body.count(chr(10), 0, at)}: a quote without its end"
        if token["word"]:
            line = line if words else first + body.count("\n", 0, at)
            words.append(token["word"])
        elif token["end"]:
            yield from _command(file, line, words)
            words = []
        at = token.end()
    yield from _command(file, line, words)


def _command(file: Path, line: int, words: list[str]) -> Iterator[Command]:
    plain = ["".join(shlex.split(word)) for word in words]
    while plain and (plain[0] in _BEFORE or _ASSIGNED.match(plain[0])):
        # What is assigned may be an URL that a later command asks.
        if _URL.search(plain[0]):
            yield Command(file, line, (plain[0].partition("=")[2],))
        plain = plain[1:]
    if plain:
        yield Command(file, line, tuple(_unredirected(plain)))


def _unredirected(words: list[str]) -> Iterator[str]:
    skip = False
    for word in words:
        if skip or re.match(r"\d?[<>]", word):
            skip = not skip and bool(re.fullmatch(r"\d?(?:<|>|>>)", word))
        else:
            yield word


def _exporter_problems(words: list[str]) -> Iterator[str]:
    command: click.Command = main
    context = click.Context(main, **main.context_settings)
    if words and words[0].startswith("-") and words[0] not in ("--help", "--version"):
        words = ["run", *words]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = command.get_command(context, name)
        if found is None:
            yield f"no command {name}"
            return
        command, context = found, click.Context(found, parent=context)
    try:
        values, _, _ = command.make_parser(context).parse_args(words)
        for parameter in command.params:
            value = values.get(parameter.name or "")
            if value is not None and not any(_PLACEHOLDER.search(str(each)) for each in _listed(value)):
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        yield error.format_message()


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
