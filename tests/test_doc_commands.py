"""Whatever the documents tell one to type is there: commands and their flags, make's targets, URLs of the port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from doc_commands import DOCUMENTS, ROOT, commands, configurations

from exporter.cli import main

if TYPE_CHECKING:
    from pathlib import Path

README = ROOT / "README.md"
KEY = "sk_test_" + "a1B2" * 8
# A probe asks Knock; what is read from standard input, or in a container, comes from elsewhere.
CHECKS = {
    words
    for file in DOCUMENTS
    for each in commands(file)
    if (words := each.exporter_words()) in {("check-config",), ("check-config", "config.yaml")}
}
WRITTEN = [(file, text) for file in DOCUMENTS for text in configurations(file)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_tells_to_type_is_there(document: Path) -> None:
    assert [problem for command in commands(document) for problem in command.problems()] == []


def test_commands_are_found_in_blocks_and_between_words() -> None:
    found = [words for file in DOCUMENTS for each in commands(file) if (words := each.exporter_words())]
    assert len(found) > 100
    assert {words[0] for words in found} >= {"check-config", "errors", "forget", "get", "group", "list", "state"}
    assert any(each.words[0] == "make" for each in commands(README))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("`knock-exporter wach -`", 1, "no command wach"),
        ("a\n\n```sh\nmake demo # it's\nx=1 venv/bin/knock-exporter --config=a\n```", 5, "No such option '--config'"),
        ("```console\n$ knock-exporter list \\\n    --status odd\nmake nothing\n```", 2, "'odd' is not one of"),
        ("| `cat a \\| knock-exporter register - --tokens=b` |", 1, "No such option '--tokens'"),
        ("```sh\nrun=$(knock-exporter group start GROUP)\n```", 2, "no command start"),
        ("```sh\nkubectl exec pod -- knock-exporter state export --path=a > b\n```", 2, "No such option '--path'"),
        ("```sh\ndocker exec -i knock-exporter knock-exporter state check -x\n```", 2, "No such option '-x'"),
        ("```sh\npython -m exporter watch --timeout\n```", 2, "requires an argument"),
        ("`make nothing`", 1, "no target nothing"),
        ("```sh\ncurl -s localhost:10187/metric\n```", 2, "no route for GET localhost:10187/metric"),
        ("```sh\ncurl -X POST 'http://127.0.0.1:10187/-/healthz'\n```", 2, "no route for POST"),
        ("```sh\ncurl http://127.0.0.1:10187/-/reload\n```", 2, "no route for GET"),
    ],
)
def test_a_wrong_command_is_named_with_its_line(text: str, line: int, problem: str) -> None:
    (found,) = [each for command in commands(README, text) for each in command.problems()]
    assert found.startswith(f"README.md:{line}: ")
    assert problem in found


def test_what_stands_for_a_value_is_taken() -> None:
    text = '```sh\nknock-exporter get OPERATION_ID\nknock-exporter list --run "$run" --status=…\n'
    text += "docker exec -it knock-exporter python3\n```"
    assert [problem for command in commands(README, text) for problem in command.problems()] == []


@pytest.mark.parametrize("words", sorted(CHECKS), ids=" ".join)
@pytest.mark.parametrize(("document", "text"), WRITTEN, ids=[file.name for file, _ in WRITTEN])
def test_configurations_that_documents_write_are_good(
    words: tuple[str, ...], document: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = text.replace("/var/lib/knock-exporter/", "")  # a folder of the image
    (tmp_path / "config.yaml").write_text(here, encoding="utf-8")
    (tmp_path / "knock.key").write_text(KEY, encoding="utf-8")
    (tmp_path / "knock.key").chmod(0o600)
    result = CliRunner().invoke(main, words)
    count = text.count("123e4567-e89b-12d3-a456-426614174000")
    counted = f"{count} operation{'' if count == 1 else 's'}"
    assert (result.exit_code, result.output) == (0, f"OK: 1 environment, {counted}\n"), document
