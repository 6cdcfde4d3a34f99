"""The entry point: `knock-exporter`, and the same as `python -m exporter`."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run a command."""
    # Before the imports, which take a while: a signal that comes meanwhile would end the process with an error, or as
    # process 1 of a container be ignored. The command settles what comes later.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    from exporter.cli import main as cli  # noqa: PLC0415 - as said above

    cli(prog_name="knock-exporter")


if __name__ == "__main__":
    main()
