"""Random inputs for whatever takes bytes from outside: `make fuzz`.

Each input has to end in a value or in an error that the program promises: no other exception, no second of CPU, and no
secret in a message or a value. What is found is made smaller and written to a file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inputs import Given
from structlog.testing import capture_logs
from targets import TARGETS, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection


CPU_SECONDS_MOST = 1.0  # of one input
AGAIN = 3  # times that such an input is given
HANGS_AFTER = 60.0  # seconds of CPU: the process is ended
MEMORY_MOST = 3 * 2**30  # bytes of address space; an input has at most 64 KiB
SMALLER_SECONDS = 5.0  # for making one finding smaller
PART = 5_000  # inputs after which a process says what it has found
SAYS = 10  # times how far it is
KINDS_MOST = 20  # of findings, each with its smallest input
TEMPLATES_MOST = 10_000
_VARIES = re.compile(r'"[^"]*"|[0-9]+|\[[^\]]*\]')
_STEP = 1 << 40  # between the numbers of two seeds


class Judged(NamedTuple):
    """What is to be said of an input: `problem` (none: ""), whether a value came of it, messages and CPU seconds."""

    problem: str
    is_value: bool
    messages: tuple[str, ...]
    seconds: float


@dataclass
class Figures:
    """What many inputs came to. `found` has the number of an input and how often, by problem."""

    inputs: int = 0
    values: int = 0
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)
    templates: set[str] = field(default_factory=set)
    found: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, other: Figures) -> None:
        self.inputs += other.inputs
        self.values += other.values
        self.seconds += other.seconds
        self.slowest = max(self.slowest, other.slowest)
        self.templates |= other.templates
        for problem, (number, times) in other.found.items():
            first, before = self.found.get(problem, (number, 0))
            self.found[problem] = min(first, number), before + times

    def __str__(self) -> str:
        count = max(1, self.inputs)
        seconds, number = self.slowest
        return (
            f"{self.inputs:,} inputs in {self.seconds:,.0f} s of CPU "
            f"({self.inputs / max(self.seconds, 0.001):,.0f} a second), "
            f"values {100 * self.values / count:.1f}%, errors {100 - 100 * self.values / count:.1f}% "
            f"of {len(self.templates):,} kinds, slowest {seconds:.3f} s (input {number})"
        )


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for who waits


def chance(seed: int, number: int) -> random.Random:
    """Return what an input is drawn with."""
    return random.Random(seed * _STEP + number)


def drawn(target: Target, seed: int, number: int) -> Given:
    """Make an input of its number."""
    return target.draw(chance(seed, number))


def judged(target: Target, given: Given, events: list[Any], clock: Callable[[], float] = time.process_time) -> Judged:
    """Give a target an input; `events` are those that are logged meanwhile, `clock` counts CPU seconds."""
    events.clear()
    began = clock()
    try:
        outcome = target.run(given.content)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is found
        return Judged(_named(error), is_value=False, messages=(), seconds=clock() - began)
    seconds = clock() - began
    problem = target.leaks(given, outcome, events)
    if not problem and seconds > CPU_SECONDS_MOST:
        # Other programs on the same core make it slower: the least of several times counts.
        for _ in range(AGAIN):
            began = clock()
            target.run(given.content)
            seconds = min(seconds, clock() - began)
        problem = f"more than {CPU_SECONDS_MOST:g} s of CPU" if seconds > CPU_SECONDS_MOST else ""
    return Judged(problem, bool(outcome.shown), outcome.messages, seconds)


def _named(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error) if type(error).__name__ == "Wrong" else ""
    return f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno} {text}".rstrip()


def run(target: Target, seed: int, numbers: Iterable[int], at: Callable[[int], None] = lambda _number: None) -> Figures:
    """Judge these inputs; `at` is told of each before it is given."""
    figures, began = Figures(), time.process_time()
    with capture_logs() as events:
        for number in numbers:
            at(number)
            verdict = judged(target, drawn(target, seed, number), events)
            figures.inputs += 1
            figures.values += verdict.is_value
            if verdict.seconds > figures.slowest[0]:
                figures.slowest = verdict.seconds, number
            if verdict.problem:
                if verdict.problem not in figures.found:
                    say(f"FOUND {verdict.problem} (input {number})")
                first, times = figures.found.get(verdict.problem, (number, 0))
                figures.found[verdict.problem] = first, times + 1
            elif len(figures.templates) < TEMPLATES_MOST:
                figures.templates |= {_VARIES.sub("#", each[:300]) for each in verdict.messages[:1]}
    figures.seconds = time.process_time() - began
    return figures


def smaller(target: Target, given: Given, problem: str, seconds: float = SMALLER_SECONDS) -> bytes:
    """Take out of an input what its problem does not need, for so long."""
    content, until = given.content, time.monotonic() + seconds
    size = len(content) // 2
    with capture_logs() as events:
        while size and time.monotonic() < until:
            start = 0
            while start < len(content) and time.monotonic() < until:
                tried = content[:start] + content[start + size :]
                if judged(target, Given(tried, exact=False), events).problem == problem:
                    content = tried
                else:
                    start += size
            size //= 2
    return content


def _work(kind: type[Target], seed: int, numbers: range, at: Any, results: Connection) -> None:
    if sys.platform == "linux":  # other systems refuse it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MOST, MEMORY_MOST))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def note(number: int) -> None:
        at.value = number
        signal.setitimer(signal.ITIMER_PROF, HANGS_AFTER)  # ends the process, wherever it hangs

    with opened(kind) as target:
        for first in range(0, len(numbers), PART):
            results.send(run(target, seed, numbers[first : first + PART], note))
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def opened(kind: type[Target]) -> Iterator[Target]:
    """Make a target, with a folder that no disk needs to see."""
    memory = "/dev/shm"  # noqa: S108 - it is Linux's
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=where) as folder, closing(kind(Path(folder))) as target:
        yield target


def side_by_side(kind: type[Target], seed: int, inputs: int, workers: int) -> Figures:
    """Judge inputs in processes of their own, which a crash of a library may end; say how far it is."""
    begin = multiprocessing.get_context("spawn")
    total, under_way, shown = Figures(), {}, 1
    for worker in range(workers):
        at = begin.RawValue("Q", 0)
        mine, theirs = begin.Pipe(duplex=False)
        numbers = range(worker, inputs, workers)
        process = begin.Process(target=_work, args=(kind, seed, numbers, at, theirs), daemon=True)
        process.start()
        theirs.close()
        under_way[mine] = process, at
    while under_way:
        ready = wait(list(under_way))
        for mine in [each for each in under_way if each in ready]:
            try:
                total.add(mine.recv())
            except EOFError:
                process, at = under_way.pop(mine)
                process.join()
                if code := process.exitcode:
                    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    total.add(Figures(found={f"the process ended with {name}": (at.value, 1)}))
        if total.inputs * SAYS >= inputs * shown:
            shown = total.inputs * SAYS // inputs + 1
            say(f"{kind.name}: {total}; {len(total.found)} found")
    return total


def report(kind: type[Target], seed: int, figures: Figures, folder: Path) -> None:
    """Say what was found, and write the smallest inputs."""
    with opened(kind) as target:
        for problem, (number, times) in list(figures.found.items())[:KINDS_MOST]:
            given = drawn(target, seed, number)
            # What ended a process would end this one, too.
            content = given.content if problem.startswith("the process") else smaller(target, given, problem)
            folder.mkdir(exist_ok=True)
            file = folder / f"{kind.name}-{number}"
            file.write_bytes(content)
            say(f"FOUND {problem}: {times} times; {len(content)} bytes: {content[:200]!r}")
            say(f"  in {file}; again: make fuzz FUZZ_FLAGS='--seed {seed} --kind {kind.name} --input {number}'")
    if len(figures.found) > KINDS_MOST:
        say(f"and {len(figures.found) - KINDS_MOST} more problems")


def show(kind: type[Target], seed: int, number: int) -> bool:
    """Give one input again, and show it; return whether nothing was found."""
    with opened(kind) as target, capture_logs() as events:
        given = drawn(target, seed, number)
        say(f"{kind.name}, input {number}: {given.content!r}")
        try:
            outcome = target.run(given.content)
        except Exception:  # noqa: BLE001 - whatever it is, it is shown
            say(traceback.format_exc())
            return False
        say("\n".join((*outcome.messages, *outcome.shown)))
        problem = judged(target, given, events).problem
        say(f"FOUND {problem}" if problem else "nothing found")
        return not problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {each.name: each for each in TARGETS}
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of each kind (default: 1,000,000)")
    parser.add_argument("--kind", choices=names, action="append", help="this kind alone; can be repeated")
    parser.add_argument("--seed", type=int, help="draw the inputs of this seed")
    parser.add_argument("--input", type=int, metavar="NUMBER", help="give this input alone (with --kind), and show it")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the processes would go on
    seed = random.SystemRandom().getrandbits(32) if chosen.seed is None else chosen.seed
    kinds = [names[each] for each in chosen.kind or names]
    if chosen.input is not None:
        shown = [show(each, seed, chosen.input) for each in kinds]
        sys.exit(0 if all(shown) else 1)
    say(f"seed {seed}; again: make fuzz FUZZ_FLAGS='--seed {seed} --inputs {chosen.inputs}'")
    folder = Path(tempfile.gettempdir()) / f"fuzz-{seed}"
    found = 0
    for kind in kinds:
        figures = side_by_side(kind, seed, chosen.inputs, chosen.workers)
        report(kind, seed, figures, folder)
        found += len(figures.found)
    say(f"{found} found" if found else "nothing found")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
