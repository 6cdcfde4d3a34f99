"""Standard streams, and signals before somebody waits for them: while modules are imported and the state is opened."""

from __future__ import annotations

import os
import signal
import sys
import threading


def open_standard_streams() -> None:
    """Put the null device in the place of standard streams that are closed: later files would get their numbers.

    Standard output still refuses what is written, so that a command whose result is lost does not end with 0.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))


def end_on_signals() -> None:
    """End the process with 0 on SIGTERM and SIGINT, and ignore SIGHUP, until `signals_are_taken_over`.

    A handler alone does not do: Python calls it only when the main thread comes back, say from a disk that hangs.
    """
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    threading.Thread(target=lambda: os.read(woken, 1) and os._exit(0), name="startup", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(wakes)


def signals_are_taken_over() -> None:
    """Leave signals to the handlers that are set next."""
    wakes = signal.set_wakeup_fd(-1)
    if wakes >= 0:
        os.close(wakes)  # which ends the thread
