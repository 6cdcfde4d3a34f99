"""One round of the machine, always the same; `make soak` runs others for hours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = "1"


def test_whatever_happens_what_is_shown_is_what_the_reference_says(
    record_property: Callable[[str, object], None],
) -> None:
    record_property("one round of the machine", f"seed {SEED}; again: make soak SOAK_FLAGS='--seed {SEED}'")
    # In a process of its own: the order of sets, by hash, is then the same each time.
    program = [sys.executable, str(Path(__file__).with_name("soak.py")), "--seed", SEED]
    ran = subprocess.run(program, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
