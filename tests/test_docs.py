"""The documents say what the code does: every key, flag and default, and no link that leads nowhere."""

from __future__ import annotations

import ast
import itertools
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from exporter import __version__
from exporter.cli import main
from exporter.terminal.exit_codes import ExitCode
from exporter.values import DURATION, parse_duration

ROOT = Path(__file__).parent.parent
CONFIGURATION = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "[a-z]*/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]
# Their defaults are told in words: a value that another one settles, or none at all.
IN_WORDS = {"max_in_flight", "environments[].ca_file", "environments[].operations_http[].ca_file"}


def _schema_keys() -> dict[str, dict[str, Any]]:
    schema = json.loads((ROOT / "docs/config.schema.json").read_text(encoding="utf-8"))

    def walk(path: str, node: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the leaves below a node: `a.b` of a mapping, `a[].b` of a list of mappings."""
        if node.get("items", {}).get("$ref"):
            return walk(f"{path}[]", node["items"])
        if either := [each for each in node.get("items", {}).get("anyOf", ()) if "$ref" in each]:
            return {path: node} | walk(f"{path}[]", either[0])
        if "$ref" not in node:
            return {path: node}
        inner = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]["properties"]
        own = {
            key: value for key, value in inner.items() if path != "environments[]" or key not in schema["properties"]
        }
        return {leaf: found for key, value in own.items() for leaf, found in walk(f"{path}.{key}", value).items()}

    return {leaf: found for key, value in schema["properties"].items() for leaf, found in walk(key, value).items()}


def _documented_keys() -> dict[str, str]:
    rows = re.findall(r"^\| `([^`]+)` ?\*? \| ([^|]*) \|", CONFIGURATION, flags=re.MULTILINE)
    return {key: default.strip() for key, default in rows if not key.startswith("knock-exporter")}


def test_every_key_is_documented_and_no_other() -> None:
    assert set(_documented_keys()) == set(_schema_keys())


@pytest.mark.parametrize("key", sorted(set(_schema_keys()) - IN_WORDS))
def test_the_documented_default_is_the_real_one(key: str) -> None:
    documented, real = _documented_keys()[key].strip("`"), _schema_keys()[key].get("default")
    if not real and not isinstance(real, bool):
        assert documented in ("none", "required"), documented
    elif re.fullmatch(DURATION, str(real)):
        assert parse_duration(documented) == parse_duration(real)
    else:
        assert documented == _written(real)


def _written(default: Any) -> str:
    if isinstance(default, list):
        return f"[{', '.join(default)}]"
    return f"{default:g}" if isinstance(default, float) else str(default).lower()


def test_every_key_says_when_a_reload_takes_it() -> None:
    rows = re.findall(r"^\| `([^`]+)` ?\*? \|.*\| ([^|]+) \|$", CONFIGURATION, flags=re.MULTILINE)
    reloads = {key: reload.partition(";")[0].partition(",")[0] for key, reload in rows if key in _schema_keys()}
    assert {key for key, reload in reloads.items() if reload != "at once"} == {"storage.path"}
    assert reloads["storage.path"].startswith("restart")


def _commands(name: str, command: click.Command) -> list[tuple[str, click.Command]]:
    """Return a command, or all those of a group, by the name of the row that tells of them."""
    return (
        [(name, each) for each in command.commands.values()] if isinstance(command, click.Group) else [(name, command)]
    )


def _flags() -> list[tuple[str, click.Option]]:
    context = click.Context(main, **main.context_settings)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return [
        (name, parameter)
        for top, known in found.items()
        if known is not None
        for name, command in _commands(top, known)
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]


@pytest.mark.parametrize(("command", "option"), _flags(), ids=lambda each: getattr(each, "name", each))
def test_every_flag_is_documented_with_its_command(command: str, option: click.Option) -> None:
    row = next(line for line in CONFIGURATION.splitlines() if line.startswith(f"| `knock-exporter {command}"))
    assert max(option.opts, key=len) in row


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"`(--[a-z.-]+)", CONFIGURATION))))
def test_every_documented_flag_is_there(flag: str) -> None:
    assert flag in {name for _, option in _flags() for name in option.opts}


def test_every_command_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^\| `knock-exporter ([a-z-]+)", CONFIGURATION, flags=re.MULTILINE))
    assert documented == set(main.list_commands(click.Context(main, **main.context_settings)))


def test_every_exit_code_is_documented_and_no_other() -> None:
    table = (ROOT / "docs/shell.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", table, flags=re.MULTILINE)
    assert rows == [(str(code.value), code.name.lower()) for code in ExitCode]
    columns = " ".join(re.findall(r"^(?:\|[^|]*){2}\|([^|]*)\|", table, flags=re.MULTILINE))
    named = set(re.findall(r"`([a-z-]+)", columns))
    assert named
    assert named <= set(main.list_commands(click.Context(main, **main.context_settings)))


def _anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document, and those that it sets itself."""
    text = re.sub(r"^(```|~~~).*?^\1$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^#{1,6} +(.*?)[ #]*$", text, flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        twice = next(
            number for number in itertools.count() if (f"{anchor}-{number}" if number else anchor) not in found
        )
        found.add(f"{anchor}-{twice}" if twice else anchor)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'src="([^"]+)"', text):
        path, _, anchor = target.removeprefix(f"{REPOSITORY}/blob/main/").partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        root = ROOT if target.startswith(REPOSITORY) else document.parent
        leads_to = root / path if path else document
        if not leads_to.exists() or (anchor and anchor not in _anchors(leads_to)):
            broken.append(target)
    assert broken == []


def test_recipes_that_are_downloaded_are_those_of_the_folder() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    raw = REPOSITORY.replace("//github.com/", "//raw.githubusercontent.com/")
    addresses = re.findall(r"https://raw[^\s)]+", text)
    assert {each.removeprefix(f"{raw}/main/docs/recipes/") for each in addresses} == {
        path.name for path in (ROOT / "docs" / "recipes").iterdir() if path.is_file()
    }


def test_the_glossary_is_in_order_and_says_each_word_once() -> None:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    tables = [re.findall(r"^\| \*\*(.+?)\*\* \|", part, flags=re.MULTILINE) for part in text.split("\n## ")[1:]]
    assert [words == sorted(words) and len(words) > 15 for words in tables] == [True, True]
    words = [word for table in tables for word in table]
    assert len(words) == len(set(words)) > 40


def test_every_helper_of_tests_is_listed_and_no_other() -> None:
    folder = ROOT / "tests" / "support"
    rows = re.findall(r"^\| `(\w+)` \|", (folder / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows == sorted(path.stem for path in folder.glob("*.py"))


def _tests_of(file: Path) -> set[str]:
    return {
        f"{file.relative_to(ROOT)}::{node.name}"
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_fault_names_a_test_that_exists() -> None:
    lines = (ROOT / "docs/reliability.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    heads = [number for number, row in enumerate(rows) if row[0] == "fault"]
    assert all(rows[number] == ["fault", "what you see", "what is promised", "test"] for number in heads)
    faults = [row for number, row in enumerate(rows) if number not in heads and number - 1 not in heads]
    assert len(faults) > 200
    assert [row for row in faults if len(row) != 4 or not all(row)] == []
    links = [re.fullmatch(r"\[`(tests/(\S+)::\w+)`\]\(\.\./tests/(\S+)\)", row[3]) for row in faults]
    without = [row[0] for row, link in zip(faults, links, strict=True) if not link or link[2] != link[3]]
    assert without == []
    named = [link[1] for link in links if link]
    tests = set[str]().union(*(_tests_of(ROOT / "tests" / file) for file in {link[2] for link in links if link}))
    assert [each for each in named if each not in tests] == []
    assert len(named) == len(set(named)), "one fault, one test"


def test_the_changelog_knows_what_is_to_come() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{__version__}]" in changelog


def test_the_threat_model_names_code_that_exists() -> None:
    named = re.findall(r"`([\w/]+\.py):(\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    for file, name in named:
        tree = ast.parse((ROOT / "exporter" / file).read_text(encoding="utf-8"))
        defined = {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.ClassDef)}
        assert name in defined | {each.name for each in ast.walk(tree) if isinstance(each, ast.AsyncFunctionDef)}, file
