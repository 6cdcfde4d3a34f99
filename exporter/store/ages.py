"""Times that mean the same to the next process: ages, and the checkpoint that they go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from exporter.tracking.transitions import Moment


class Ages(NamedTuple):
    """Turns monotonic times of this process into ages and back, so that they mean the same to the next process.

    An age runs with monotonic time while a process has the file, and with wall time in between.
    """

    shift: float

    def age(self, mono: float) -> float:
        """Return what stands in the file for a monotonic time."""
        return mono + self.shift

    def mono(self, age: float) -> float:
        """Return the monotonic time of an age; negative if it was before this machine's start."""
        return age - self.shift


class Checkpoint(NamedTuple):
    """When the file was last true: its age, and the wall time (Unix seconds)."""

    age: float
    wall: float

    def ages(self, now: Moment) -> Ages:
        """Go on from here: the wall time since counts, and a wall clock that went back counts as no time."""
        return Ages(self.age + max(0.0, now.wall - self.wall) - now.mono)


def first_ages(now: Moment) -> Ages:
    """Begin a new file: its ages look like Unix seconds, for anyone who reads it in a shell."""
    return Ages(now.wall - now.mono)


def checkpoint(ages: Ages, at: Moment) -> Checkpoint:
    """Return the checkpoint of a moment."""
    return Checkpoint(ages.age(at.mono), at.wall)
