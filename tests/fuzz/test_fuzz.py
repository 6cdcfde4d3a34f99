"""Some thousand random inputs of each kind; `make fuzz` gives a million. And that it finds what it is to find."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import fuzz
import pytest
import structlog
from inputs import Corpus, Given, Seed
from markers import marker
from structlog.testing import capture_logs
from targets import TARGETS, Hidden, Outcome, Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

SEED = 1
# So many inputs take half a CPU second. Of them so many end in values, and so many kinds of messages are met.
INPUTS = {"answers": 1600, "configurations": 600, "registrations": 1000, "id-files": 2000, "web-configurations": 700}
VALUES_LEAST, MESSAGES_LEAST = 0.05, 50


@pytest.mark.parametrize("kind", TARGETS, ids=lambda kind: str(kind.name))
def test_any_input_ends_in_a_value_or_a_promised_error(
    kind: type[Target], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with closing(kind(tmp_path)) as target:
        figures = fuzz.run(target, SEED, range(INPUTS[kind.name]))
        again = [{fuzz.drawn(target, seed, 7) for _ in range(5)} for seed in (SEED, SEED + 1)]
    assert [len(each) for each in again] == [1, 1]
    assert again[0] != again[1]
    record_property(f"random {kind.name}", str(figures))  # pytest-xdist takes texts
    assert figures.found == {}, f"make fuzz FUZZ_FLAGS='--seed {SEED} --kind {kind.name} --input NUMBER'"
    assert figures.inputs == INPUTS[kind.name]
    assert VALUES_LEAST < figures.values / figures.inputs < 1 - VALUES_LEAST
    assert len(figures.templates) >= MESSAGES_LEAST


SECRET = marker("Rq3mBz8tLw5Kd1Xe", "sk_test_{}")


class Faulty(Target):
    """Does what no program may do, each for a word of its own."""

    name = "faulty"
    hidden = (Hidden(SECRET),)
    corpus = Corpus([Seed('{"a": ["loop", 5], "b": "says"}')], (f'"{SECRET.secret}"', "end"), ("c",))

    def draw(self, rng: Random) -> Given:
        return self.corpus.draw(rng)

    def run(self, content: bytes) -> Outcome:
        if b"loop" in content:
            return self.run(content)
        if b"end" in content:
            os.kill(os.getpid(), signal.SIGKILL)
        if b"log" in content:
            log.info("read", content=content.decode())
        return Outcome(
            (content.decode(),) if b"says" in content else (), (repr(content),) if b"shown" in content else ()
        )


log = structlog.get_logger()


def problem(folder: Path, content: bytes, *, exact: bool = False, clock: Callable[[], float] = lambda: 0.0) -> str:
    with capture_logs() as events:
        return fuzz.judged(Faulty(folder), Given(content, exact), events, clock).problem


def test_an_exception_that_nobody_promised_is_found_and_made_smaller(tmp_path: Path) -> None:
    target = Faulty(tmp_path)
    [found] = fuzz.run(target, SEED, [7]).found
    assert found.startswith("RecursionError in test_fuzz.py:")
    given = fuzz.drawn(target, SEED, 7)
    assert len(given.content) > len(b"loop")
    assert fuzz.smaller(target, given, found) == b"loop"


def test_a_secret_is_found_where_it_is_shown_and_in_what_form(tmp_path: Path) -> None:
    secret = SECRET.secret.encode()
    assert problem(tmp_path, b"says " + secret) == f"{SECRET.secret} in messages"
    assert problem(tmp_path, b"shown " + secret) == f"{SECRET.secret} in values"
    assert problem(tmp_path, b"log " + secret) == f"{SECRET.secret} in messages"
    assert problem(tmp_path, b"says %41" + quoted(SECRET.secret), exact=True) == f"{SECRET.secret} in messages"
    assert problem(tmp_path, secret) == ""
    # Edited, it is none any more; nor is what is only like it.
    assert problem(tmp_path, b"says " + secret + b" " + secret[:-4]) == ""
    assert problem(tmp_path, b"says " + secret[1:]) == ""


def quoted(text: str) -> bytes:
    return "".join(f"%{ord(each):02x}" for each in text).encode()


def test_what_takes_more_than_a_second_is_found(tmp_path: Path) -> None:
    # Where it begins and ends, each time that it is given.
    quick, slow = iter((0.0, 1.5, 2.0, 3.5, 4.0, 4.9, 5.0, 6.5)), iter((0.0, 1.5, 2.0, 3.5, 4.0, 5.1, 6.0, 8.0))
    assert problem(tmp_path, b"", clock=lambda: next(quick)) == ""
    assert problem(tmp_path, b"", clock=lambda: next(slow)) == "more than 1 s of CPU"


def test_what_ends_the_process_is_found_with_its_input() -> None:
    figures = fuzz.side_by_side(Faulty, SEED, 200, workers=1)
    assert list(figures.found) == ["the process ended with SIGKILL"]
    [(number, times)] = figures.found.values()
    assert (b"end" in Faulty.corpus.draw(fuzz.chance(SEED, number)).content, times) == (True, 1)
