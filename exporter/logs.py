"""Logs on standard error, as logfmt or JSON, written by a thread of their own."""

from __future__ import annotations

import logging
import sys
from logging.handlers import QueueHandler, QueueListener
from queue import Queue
from typing import TYPE_CHECKING, Any

import structlog

from exporter.errors import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("logfmt", "json")
QUEUE_LINES = 10_000  # past it lines are dropped: a stuck terminal must not stop the polling


class _AsItIs(QueueHandler):
    """Hands records over unformatted, as structlog's formatter needs them."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Drop the line: the queue is full."""


def _redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: redact(value) if isinstance(value, str) else value for key, value in event.items()}


def set_up(level: str, form: str) -> Callable[[], None]:
    """Configure logging for the whole process; returns what flushes it at the end."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=False,
    )
    writer = logging.StreamHandler(sys.stderr)
    writer.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redacted, _renderer(form)],
        )
    )
    queue: Queue[Any] = Queue(QUEUE_LINES)
    root = logging.getLogger()
    root.handlers[:] = [_AsItIs(queue)]
    root.setLevel(level.upper())
    # urllib3 warns of connections that it drops, uvicorn of clients that go away: neither needs anyone's care.
    for noisy in ("urllib3", "uvicorn"):
        logging.getLogger(noisy).setLevel("ERROR" if level != "debug" else "DEBUG")
    listener = QueueListener(queue, writer)
    listener.start()
    return listener.stop


def _renderer(form: str) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer()
    return structlog.processors.LogfmtRenderer(key_order=["ts", "level", "event"], bool_as_flag=False)
