"""Configurations with many mistakes: what is told of them is bounded, and costs in proportion to their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from timing import check_cost, cpu_seconds

from exporter import config
from exporter.errors import ConfigError
from exporter.garbage_collection import no_garbage_collection
from exporter.web import web_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = "environments:\n  - name: production\n    api_key: sk_test_0123456789\n"
OPERATIONS = f"{HEAD}    operations:\n"
LABELED = f"{OPERATIONS}      - id: 123e4567-e89b-12d3-a456-426614174000\n        labels:\n"
TOKENS = f"{HEAD}registration:\n  tokens:\n    - token_file: none\n      environments:\n"
COUNT, MORE = 100, 20
MANY: dict[str, Callable[[int], str]] = {
    "unknown keys": lambda count: HEAD + "".join(f"key{each}: 1\n" for each in range(count)),
    "anchors": lambda count: HEAD + "".join(f"key{each}: &a{each} {{a: 1}}\n" for each in range(count)),
    "keys of no text": lambda count: HEAD + "".join(f"{each}: 1\n" for each in range(count)),
    "keys twice": lambda count: HEAD + "key: 1\n" * count,
    "bad ids": lambda count: OPERATIONS + "      - x\n" * count,
    "ids twice": lambda count: OPERATIONS + "      - 123e4567-e89b-12d3-a456-426614174000\n" * count,
    "undeclared labels": lambda count: (
        LABELED
        + "".join(f"          m{each}: x\n" for each in range(count))
        + "labels:\n"
        + "".join(f"  - l{each}\n" for each in range(count))
    ),
    "names of no environment": lambda count: TOKENS + "".join(f"        - e{each}\n" for each in range(count)),
    "environments": lambda count: (
        "environments:\n"
        + "".join(f"  - {{name: e{each}, nope: 1}}\n" for each in range(count))
        + "registration:\n  tokens:\n"
        + "".join(f"    - {{token_file: none, environments: [f{each}]}}\n" for each in range(count))
    ),
}


def refused(path: Path, load: Callable[[Path], object] = lambda path: config.load(path, {})) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value


@pytest.mark.parametrize("kind", MANY)
def test_many_mistakes_are_counted_and_cost_in_proportion(tmp_path: Path, kind: str) -> None:
    files = []
    for count in (COUNT, COUNT * MORE):
        files.append(tmp_path / f"{count}.yaml")
        files[-1].write_text(MANY[kind](count))
    few, many = files
    errors: dict[Path, ConfigError] = {}

    def refuse(path: Path) -> None:
        errors[path] = refused(path)

    # A square would be 20 times as much as in proportion.
    check_cost(lambda: refuse(many), 2.5 * MORE, lambda: refuse(few))
    not_shown = []
    for each in files:
        error = errors[each]
        lines = str(error).splitlines()
        assert len(error.problems) == 50
        assert len(lines) == 51
        assert max(map(len, lines)) < 2300
        not_shown.append(int(str(error).split()[-2]))
    assert not_shown[1] > not_shown[0] >= COUNT - 51


def test_the_first_problems_of_the_file_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(MANY["unknown keys"](60))
    error = refused(path)
    assert [problem.line for problem in error.problems] == list(range(4, 54))
    assert str(error).endswith(f"{path}: and 10 more")


def test_a_long_word_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{HEAD}? {'k' * 100_000}\n: 1\nper_operation: {'x' * 100_000}\nlabels: ['{'l' * 100_000}']\n")
    assert len(str(refused(path))) < 3500


def test_the_web_configuration_is_bounded_too(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text("".join(f"key{each}: 1\n" for each in range(COUNT * MORE)))
    errors: list[ConfigError] = []
    assert cpu_seconds(lambda: errors.append(refused(path, web_config.load))) < 10
    assert str(errors[0]).endswith(f"{path}: and {COUNT * MORE - 50} more")


@pytest.mark.alone(one_core=True)
@pytest.mark.parametrize("entry", ["{}", "{{id: {}, group: nightly, labels: {{team: growth}}}}"])
def test_many_ids_take_at_most_twice_what_parsing_them_takes(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "config.yaml"
    ids = (f"{number:08x}-e89b-12d3-a456-426614174000" for number in range(8_000))
    text = OPERATIONS + "".join(f"      - {entry.format(each)}\n" for each in ids) + "labels: [team]\n"
    path.write_text(text)
    with no_garbage_collection():
        check_cost(lambda: config.load(path, {}), 2, lambda: yaml.load(text, Loader=yaml.CSafeLoader))
