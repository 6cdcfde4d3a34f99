"""The benchmarks still run; what they measure is for `make bench`, not for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_part_writes_its_figures_as_json() -> None:
    command = [sys.executable, str(BENCHMARKS), "-o", "json", "scrape-1000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    figures = json.loads(done.stdout)
    assert len(figures) == 6
    assert all(figure["value"] > 0 and figure["what"].startswith("scrape of 1,000") for figure in figures)


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS), "x"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "no such part: x (there are: memory," in done.stderr
