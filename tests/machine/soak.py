"""Rounds of random events, each with a seed of its own: `make soak`.

Rounds of the machine, in virtual time: what fails is cut down to the smallest steps. Or, with `--kills`, rounds of a
real exporter that is killed again and again. Or, with `--real`, hours of one at Knock's limit, and a picture of them.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import Machine

SETTINGS = settings(
    max_examples=20,  # some 40 s on a core
    stateful_step_count=30,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
KILLS_A_ROUND = 50  # some three minutes
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "soak.svg"


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for who waits


def run(number: int) -> None:
    """Run a round; the same number brings the same steps."""
    say(f"seed {number}; again: make soak SOAK_FLAGS='--seed {number}'")
    run_state_machine_as_test(seed(number)(type("Seeded", (Machine,), {})), settings=SETTINGS)


def kill(kills: int, first_seed: int) -> bool:
    """Kill so many processes, in rounds; return whether nothing was found."""
    from kills import Round  # noqa: PLC0415 - of tests/support, and with it what a real exporter takes

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the exporter of the round would go on
    killed = found = 0
    for begun in range(0, kills, KILLS_A_ROUND):
        number, count = first_seed + begun // KILLS_A_ROUND, min(KILLS_A_ROUND, kills - begun)
        say(f"seed {number}; again, but for moments: make soak SOAK_FLAGS='--kills {count} --seed {number}'")
        folder = Path(tempfile.mkdtemp(prefix="kills-"))
        here = Round(folder, number)
        here.run(count)
        killed += here.kills
        say("; ".join(f"{name}: {each}" for name, each in {"seed": number, **here.figures()}.items()))
        for each in here.problems:
            say(f"FOUND {each}")
        if here.problems:
            found += 1
            say(f"what it left is in {folder}")
        else:
            shutil.rmtree(folder)
    say(f"{killed} kills, {f'something found in {found} rounds' if found else 'nothing found'}")
    return not found


def soak(hours: float, number: int) -> bool:
    """Have a real exporter under load for so long; return whether nothing was found."""
    from endurance import Soak, growth  # noqa: PLC0415 - as above

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as above
    say(f"seed {number}; again, but for moments: make soak SOAK_FLAGS='--real {hours} --seed {number}'")
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    here = Soak(folder, number, hours)
    here.run_for_hours()
    for name, figure in {**here.figures(), "polls": here.polls, **here.changes}.items():
        say(f"{name}: {figure}")
    if len(here.watched) > 2:
        say(f"the last process, for {here.watched_seconds / 60:.0f} minutes: mean, growth, and how much is allowed")
        for bound, mean, rose in growth(here.watched):
            allowed = bound.allows(here.watched_seconds)
            say(f"{bound.name:<25} {mean:>9.2f} {rose:>+8.2f} {allowed:>8.2f} {bound.unit}")
        PICTURE.write_text(here.picture())
    for each in here.problems:
        say(f"FOUND {each}")
    if here.problems:
        say(f"what it left is in {folder}")
    else:
        shutil.rmtree(folder)
    return not here.problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=1.0, help="begin rounds for so long (default: 1)")
    length.add_argument("--kills", type=int, help="kill a real exporter so many times, and compare what that leaves")
    length.add_argument("--real", type=float, metavar="HOURS", help="run a real exporter at Knock's limit for so long")
    parser.add_argument("--seed", type=int, help="run the round of this seed alone; the first one's, with --kills")
    chosen = parser.parse_args()
    first_seed = random.SystemRandom().getrandbits(32) if chosen.seed is None else chosen.seed
    if chosen.kills is not None:
        sys.exit(0 if kill(chosen.kills, first_seed) else 1)
    if chosen.real is not None:
        sys.exit(0 if soak(chosen.real, first_seed) else 1)
    if chosen.seed is not None:
        run(chosen.seed)
        return
    ends, rounds = time.monotonic() + 3600 * chosen.hours, 0
    while time.monotonic() < ends:
        run(random.SystemRandom().getrandbits(32))
        rounds += 1
    say(f"{rounds} rounds, nothing found")


if __name__ == "__main__":
    main()
