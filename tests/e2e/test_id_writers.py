"""Lists of ids as programs write them: in place and killed midway, or renamed into place."""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import yaml
from programs import Program, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from programs import Exporter, Starter

    from exporter.simulator import Simulator

pytestmark = pytest.mark.e2e

RARE = {"processing": "1m", "queued": "1m", "slowest": "2m"}
FILE_SECONDS = 10.0 + 2.0 + 2.0  # looks are 5 s apart or a little more
FORMS = ("txt", "yaml", "json")
WRITER = """
import json, sys, time
path, pieces, pause = sys.argv[1:]
with open(pieces) as file:
    pieces = json.load(file)
with open(path, "w") as file:
    for piece in pieces:
        file.write(piece)
        file.flush()
        time.sleep(float(pause))
"""
SMALL, LARGE = 100, 400
ROUNDS, LOOKED_AT = 5, (2, 4)  # how often all writers are killed, and after which of these it is left so


def written(form: str, ids: Sequence[str]) -> str:
    if form == "txt":
        return "".join(f"{each}\n" for each in ids)
    groups = [{"labels": {"group": form}, "targets": [*ids]}]
    return yaml.safe_dump(groups) if form == "yaml" else json.dumps(groups, indent=1)


def pieces_of(text: str, chance: random.Random, size: int = 500) -> list[str]:
    """Cut a list within ids: what ends so can be told from a shorter list."""
    inside = [place for place in range(1, len(text)) if text[place - 1] == "-" and text[place] in "0123456789abcdef"]
    cuts = [0, *sorted(chance.sample(inside, len(text) // size)), len(text)]
    return [text[first:last] for first, last in pairwise(cuts)]


class Writers:
    """Programs that write lists in place, each form one of its own."""

    def __init__(self, start: Starter, ids: dict[str, list[str]]) -> None:
        self.folder = start.folder / "ids"
        self.folder.mkdir()
        self._start = start
        self._chance = random.Random(4)
        self._pieces = {form: pieces_of(written(form, ids[form]), self._chance) for form in FORMS}
        for form in FORMS:
            (start.folder / f"pieces.{form}").write_text(json.dumps(self._pieces[form]))

    def file(self, form: str) -> Path:
        return self.folder / f"list.{form}"

    def begin(self, form: str, seconds: float) -> Program:
        """Write a list, in about so many seconds."""
        pieces, pause = self._start.folder / f"pieces.{form}", seconds / len(self._pieces[form])
        command = [sys.executable, "-c", WRITER, str(self.file(form)), str(pieces), str(pause)]
        writer = Program(command, self._start.folder / f"writer.{form}.log")
        self._start.started.append(writer)
        return writer

    def kill_midway(self) -> None:
        """Have all lists started again, and their writers killed somewhere."""
        before = {form: self._modified(form) for form in FORMS}
        writers = {form: self.begin(form, 2.0) for form in FORMS}
        for form, writer in writers.items():
            whole = sum(map(len, self._pieces[form]))
            least = self._chance.uniform(0.0, 0.7) * whole
            until(partial(self._is_begun, form, before[form], least), "a part is written")
            writer.process.kill()
            writer.process.wait()
            assert self.file(form).stat().st_size < whole

    def _is_begun(self, form: str, before: int, least: float) -> bool:
        return self._modified(form) != before and self.file(form).stat().st_size >= least

    def _modified(self, form: str) -> int:
        return self.file(form).stat().st_mtime_ns


def followed(exporter: Exporter) -> list[float]:
    """Return how many operations each form's list has brought."""
    brought: dict[str, float] = defaultdict(float)
    for each in exporter.samples("knock_bulk_operations"):
        brought[each.labels["group"]] += each.value
    return [brought[group] for group in ("default", "yaml", "json")]


def file_failures(exporter: Exporter) -> float:
    return exporter.value("knock_exporter_source_failures_total", source="files") or 0.0


@pytest.fixture
def lists(knock: Simulator) -> dict[str, list[str]]:
    return {form: [knock.world.create(queue_seconds=1e6) for _ in range(LARGE)] for form in FORMS}


def test_a_list_whose_writer_is_killed_midway_never_counts(
    knock: Simulator, start: Starter, lists: dict[str, list[str]]
) -> None:
    writers = Writers(start, lists)
    for form in FORMS:
        writers.file(form).write_text(written(form, lists[form][:SMALL]))
    exporter = start(knock.url, operations_files=["ids/*"], rate_limit=200, polling=RARE, per_operation="none")
    small, large = [float(SMALL)] * 3, [float(LARGE)] * 3
    until(lambda: followed(exporter) == small, lambda: f"{followed(exporter)}", FILE_SECONDS)

    def still_small() -> bool:
        assert followed(exporter) == small
        return True

    for number in range(ROUNDS):
        writers.kill_midway()
        assert still_small()
        if number in LOOKED_AT:
            before = file_failures(exporter)
            until(lambda: still_small() and file_failures(exporter) >= before + 3, "judged", FILE_SECONDS)  # noqa: B023
    assert len(exporter.said("list of operations is broken, keeping its last list")) <= 3 * len(LOOKED_AT)

    before, slow = file_failures(exporter), [writers.begin(form, FILE_SECONDS) for form in FORMS]
    until(lambda: still_small() and all(each.process.poll() is not None for each in slow), "written", 60.0)
    assert file_failures(exporter) == before
    until(lambda: followed(exporter) == large, lambda: f"all are followed, not {followed(exporter)}", FILE_SECONDS)
    assert len(exporter.said("list of operations is good again")) == 3


def test_a_list_that_is_renamed_into_place_counts_whole(
    knock: Simulator, start: Starter, lists: dict[str, list[str]]
) -> None:
    writers = Writers(start, lists)
    exporter = start(knock.url, operations_files=["ids/*"], rate_limit=200, polling=RARE, per_operation="none")
    for part in (SMALL, LARGE):
        for form in FORMS:
            unseen = writers.folder / f".list.{form}.tmp"
            unseen.write_text(written(form, lists[form][:part]))
            unseen.rename(writers.file(form))
        steps: list[list[float]] = []

        def whole(part: int = part, steps: list[list[float]] = steps) -> bool:
            steps.append(followed(exporter))
            return steps[-1] == [float(part)] * 3

        until(whole, "all are followed", FILE_SECONDS)
        for of_file in zip(*steps, strict=True):
            assert list(of_file) == sorted(of_file)  # a long list is taken in slices, and none of it leaves again
    assert file_failures(exporter) == 0
