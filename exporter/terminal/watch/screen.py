"""What people see meanwhile, on standard error: live bars in a terminal, a line now and then everywhere else."""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from exporter import wording
from exporter.operation import Status
from exporter.tracking.transitions import LOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TextIO

    from rich.console import Console, RenderableType

    from exporter.terminal.watch.core import Frame, Watched
    from exporter.tracking.transitions import Moment

    Show = Callable[[Frame, Moment], None]
    Say = Callable[[str], None]

REFRESHES = 4  # a second
LINE_SECONDS = 60.0  # between two lines where nothing changes
CHANGE_SECONDS = 10.0  # between two lines about many operations
FEW = 12  # operations of which each has lines of its own
ID_WIDTH = 36
NARROW, WIDE = 76, 140  # columns: under the one an operation takes two lines, from the other on it shows all
_ROOM = 5  # lines below the bars of operations
_WRONG = (Status.FAILED, LOST)
_COLOURS = {"completed": "green", "failed": "red", "processing": "blue", "queued": "yellow"}


def summary(frame: Frame, elapsed: float) -> str:
    """Write all that is known of all operations together in one line."""
    parts = [f"{frame.title}: {frame.word}"]
    if frame.total:
        parts.append(f"{frame.finished:,} of {frame.total:,} finished")
    if frame.progress is not None:
        parts.append(f"{_percent(frame.progress)} of {frame.progress_of}")
    parts += [f"{frame.counts[state]:,} {state}" for state in _WRONG if frame.counts.get(state)]
    if frame.with_errors:
        parts.append(f"{frame.with_errors:,} with errors ({wording.number(frame.errors)})")
    elif frame.errors:
        parts.append(wording.counted(frame.errors, "error"))
    if frame.rate is not None:
        parts.append(f"{wording.speed(frame.rate)} rows/s")
    if frame.time_left is not None:
        parts.append(f"{wording.span(frame.time_left)} left")
    return " · ".join([*parts, f"{wording.span(elapsed)} elapsed"])


def _percent(share: float) -> str:
    # 100% is only what is done.
    return f"{min(int(share * 100), 99)}%" if share < 1 else "100%"


class PlainLines:
    """Writes a line where something changes, and about once a minute; few of many operations have lines of their own.

    Takes each frame with its moment.
    """

    def __init__(self, say: Say, began: float) -> None:
        self._say, self._began = say, began
        self._states: Mapping[str, str] = {}
        self._word, self._wrong = "", (0, 0, 0)
        self._troubles = ("", "")
        self._last = float("-inf")

    def __call__(self, frame: Frame, at: Moment) -> None:
        """Write what is new; without a word, nothing is known yet."""
        if not frame.word:
            return
        troubles = (frame.problem, frame.note)
        for trouble, before in zip(troubles, self._troubles, strict=True):
            if trouble and not before:
                self._say(trouble)
        self._troubles = troubles
        few = len(frame.watched) == frame.total <= FEW
        changed = few and self._say_changed(frame.watched)
        wrong = (frame.counts.get(Status.FAILED, 0), frame.counts.get(LOST, 0), frame.with_errors)
        since = at.mono - self._last
        other = frame.word != self._word or (wrong != self._wrong and not few and since >= CHANGE_SECONDS)
        if (other and not changed) or since >= LINE_SECONDS:
            self._say(summary(frame, at.mono - self._began))
            self._word, self._wrong, self._last = frame.word, wrong, at.mono

    def _say_changed(self, watched: Sequence[Watched]) -> bool:
        states = {each.id: each.tracked.state for each in watched}
        before, self._states = self._states, states
        new = [each for each in watched if before and before.get(each.id) != each.tracked.state]
        for each in new:
            self._say(line_of(each))
        return bool(new)


def line_of(each: Watched) -> str:
    """Write what is known of one operation in a line."""
    parts = [f"{each.id} {each.tracked.state}"]
    if each.processed is not None:
        parts.append(wording.progress(each.processed, each.estimated))
    if each.errors:
        parts.append(wording.counted(each.errors, "error"))
    elif each.has_errors:
        parts.append("with errors")
    return ", ".join(parts)


# Bars.


class Bars:
    """Draws the frame that it was given last, several times a second."""

    def __init__(self, console: Console, monotonic: Callable[[], float]) -> None:
        self._console, self._monotonic = console, monotonic
        self._began = monotonic()
        self._frame: Frame | None = None

    def __call__(self, frame: Frame, _at: Moment) -> None:
        """Draw this from now on."""
        self._frame = frame

    def drawing(self) -> RenderableType:
        """Return what is to be drawn now; called by the thread that draws."""
        if self._frame is None:
            return ""
        return drawing(self._frame, self._monotonic() - self._began, *self._console.size)


def drawing(frame: Frame, elapsed: float, width: int, height: int) -> RenderableType:
    """Lay out a frame: bars of operations as far as there is room, and one of all."""
    from rich.console import Group  # noqa: PLC0415 - pipes do without
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 - the same
    from rich.table import Table  # noqa: PLC0415 - the same
    from rich.text import Text  # noqa: PLC0415 - the same

    lines = 1 if width >= NARROW else 2
    shown = _first(frame.watched, max((height - _ROOM) // lines, 1))
    parts: list[RenderableType] = []
    if shown:
        parts.append(_narrow(shown) if width < NARROW else _table(shown, wide=width >= WIDE))
    if frame.total > len(shown) > 0:
        parts.append(Text(f"and {frame.total - len(shown):,} more", "dim"))
    if frame.progress is not None:
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(width=3)
        bar.add_column(ratio=1)
        bar.add_column(width=4, justify="right")
        bar.add_row(Text("all", "bold"), ProgressBar(1.0, frame.progress), _percent(frame.progress))
        parts.append(bar)
    parts.append(Text(summary(frame, elapsed)))
    if trouble := frame.problem or frame.note:
        parts.append(Text(trouble, "yellow", overflow="ellipsis", no_wrap=True))
    return Group(*parts)


def _first(watched: Sequence[Watched], room: int) -> Sequence[Watched]:
    """Return those that there is room for: what runs, what waits, what went wrong, and then the rest."""
    if len(watched) <= room:
        return watched
    return sorted(watched, key=_precedence)[:room]


def _precedence(each: Watched) -> int:
    state = each.tracked.state
    if state == Status.PROCESSING:
        return 0
    if each.tracked.active:
        return 1
    return 2 if state in _WRONG or each.has_errors else 3


def _table(watched: Sequence[Watched], *, wide: bool) -> RenderableType:
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 - pipes do without
    from rich.table import Table  # noqa: PLC0415 - the same
    from rich.text import Text  # noqa: PLC0415 - the same

    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=ID_WIDTH, no_wrap=True)
    table.add_column(width=10, no_wrap=True)
    table.add_column(ratio=1)
    for column in (4, 25, 12, 10, 14) if wide else (4, 7, 7, 5):
        table.add_column(width=column, justify="right", no_wrap=True)
    for each in watched:
        state, share = each.tracked.state, each.progress
        table.add_row(each.id, Text(state, _colour(state)), ProgressBar(1.0, share or 0.0), *_numbers(each, wide=wide))
    return table


def _narrow(watched: Sequence[Watched]) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - pipes do without

    lines = Text()
    for each in watched:
        state = each.tracked.state
        lines.append(f"{each.id}\n  ").append(state, _colour(state))
        lines.append("".join(f" {number}" for number in _numbers(each, wide=False) if number) + "\n")
    lines.rstrip()
    return lines


def _colour(state: str) -> str:
    return _COLOURS.get(state, "red" if state == LOST else "")


def _numbers(each: Watched, *, wide: bool) -> list[str]:
    """Write progress, with much room rows too, speed, time left and errors."""
    ended = not each.tracked.active
    rate = None if ended else each.rate
    share = "" if each.progress is None else _percent(each.progress)
    left = "" if ended or each.time_left is None else wording.span(each.time_left)
    if wide:
        processed = "" if each.processed is None else wording.number(each.processed)
        rows = processed + (f" of {wording.number(each.estimated)}" if processed and each.estimated else "")
        speed = "" if rate is None else f"{wording.speed(rate)}/s"
        wrong = wording.counted(each.errors, "error") if each.errors else "errors" if each.has_errors else ""
        return [share, rows, speed, left, wrong]
    speed = "" if rate is None else f"{wording.short(round(rate))}/s"
    wrong = f"{wording.short(each.errors or 0)}!" if each.errors else "!" if each.has_errors else ""
    return [share, speed, left.replace(" ", ""), wrong]


@contextmanager
def shown(stderr: TextIO, monotonic: Callable[[], float]) -> Iterator[tuple[Show, Say]]:
    """Yield what shows a frame, and what says a line meanwhile; the terminal is left tidy, however it ends."""

    def say(line: str) -> None:
        stderr.write(f"{line}\n")
        stderr.flush()

    # Not rich's own opinion: it takes FORCE_COLOR, which CI services set, for a terminal.
    if not stderr.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        yield PlainLines(say, monotonic()), say
        return
    if find_spec("rich") is None:
        say("For bars that move, install rich: pip install 'knock-exporter[cli]'")
        yield PlainLines(say, monotonic()), say
        return
    from rich.console import Console  # noqa: PLC0415 - pipes do without
    from rich.live import Live  # noqa: PLC0415 - the same
    from rich.text import Text  # noqa: PLC0415 - the same

    console = Console(file=stderr, force_terminal=True, highlight=False)
    bars = Bars(console, monotonic)
    live = Live(
        get_renderable=bars.drawing,
        console=console,
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live:
        yield bars, lambda line: console.print(Text(line))
