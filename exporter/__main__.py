"""The entry point: `knock-exporter`, and the same as `python -m exporter`."""

from __future__ import annotations

from exporter.startup import end_on_signals


def main() -> None:
    """Run a command."""
    # Before the imports, which take a while: a signal that comes meanwhile would end the process with an error, or as
    # process 1 of a container be ignored. The command settles what comes later.
    end_on_signals()

    from exporter.cli import main as cli  # noqa: PLC0415 - as said above

    cli(prog_name="knock-exporter")


if __name__ == "__main__":
    main()
