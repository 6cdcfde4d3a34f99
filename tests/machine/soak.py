"""Rounds of the machine, each with a seed of its own: `make soak`. What fails is cut down to the smallest steps."""

from __future__ import annotations

import argparse
import random
import time

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


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for who waits


def run(number: int) -> None:
    """Run a round; the same number brings the same steps."""
    say(f"seed {number}; again: make soak SOAK_FLAGS='--seed {number}'")
    run_state_machine_as_test(seed(number)(type("Seeded", (Machine,), {})), settings=SETTINGS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=1.0, help="begin rounds for so long (default: 1)")
    length.add_argument("--seed", type=int, help="run the round of this seed alone")
    chosen = parser.parse_args()
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
