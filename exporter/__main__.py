"""The entry point: `knock-exporter`, and the same as `python -m exporter`."""

from __future__ import annotations

import sys

from exporter.startup import end_on_signals, open_standard_streams


def main() -> None:
    """Run a command."""
    open_standard_streams()
    # Before the imports, which take a while: a signal that comes meanwhile would end the process with an error, or as
    # process 1 of a container be ignored. The command settles what comes later.
    end_on_signals()
    _import_structlog_without_rich()

    from exporter.cli import main as cli  # noqa: PLC0415 - as said above

    cli(prog_name="knock-exporter")


def _import_structlog_without_rich() -> None:
    # structlog imports rich where it finds it, for tracebacks in colours, which are not used here: all other imports
    # take 0.27 CPU seconds, and with it 0.41.
    sys.modules["rich"] = None  # type: ignore[assignment] # Python's own way to say that there is none
    import structlog  # noqa: F401, PLC0415

    del sys.modules["rich"]


if __name__ == "__main__":
    main()
