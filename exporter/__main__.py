"""`python -m exporter`: the same as `knock-exporter`."""

from exporter.cli import main

main(prog_name="knock-exporter")
