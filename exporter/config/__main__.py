"""Print the JSON Schema: `python -m exporter.config`."""

import sys

from exporter.config.schema import json_schema

sys.stdout.write(json_schema())
