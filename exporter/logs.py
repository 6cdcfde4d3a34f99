"""Logs on standard error, as logfmt or JSON, written by a thread of their own."""

from __future__ import annotations

import logging
import sys
import threading
from logging.handlers import QueueHandler, QueueListener
from queue import Queue
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from exporter.errors import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

QUEUE_LINES = 10_000  # past it lines are dropped: a stuck terminal must not stop the polling
FLUSH_SECONDS = 0.5  # nor keep the process from ending
_PLAIN = (bool, int, float, type(None))


class _AsItIs(QueueHandler):
    """Hands records over unformatted, as structlog's formatter needs them."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        if record.name.startswith("urllib3") and isinstance(record.args, tuple):  # a list's query may be a secret
            record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Drop the line: the queue is full."""


class _Writer(logging.StreamHandler[TextIO]):
    """Writes lines; drops those that the stream does not take."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Drop the line: by itself, logging writes a traceback and what was to be logged, keys included."""


class _Listener(QueueListener):
    """Writes what is in the queue, until told to stop."""

    def enqueue_sentinel(self) -> None:
        """Wait for a place: the base class raises when the queue is full."""
        self.queue.put(self._sentinel)  # type: ignore[attr-defined] # a documented hook, but not its value

    def flush(self) -> bool:
        """Write what is left and stop; tell whether that was done in time."""
        stopper = threading.Thread(target=self.stop, name="log-flush", daemon=True)
        stopper.start()
        stopper.join(FLUSH_SECONDS)
        return not stopper.is_alive()


def _redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # Before rendering: masking in finished JSON could eat the backslash that escapes a quote.
    return {key: value if isinstance(value, _PLAIN) else redact(str(value)) for key, value in event.items()}


def set_up(level: str, form: str) -> Callable[[], bool]:
    """Configure logging for the whole process.

    Returns what flushes it at the end; that returns False where nobody takes the lines, so that some are left.
    """
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
    writer = _Writer(sys.stderr)
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
    for noisy in ("urllib3", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel("ERROR" if level != "debug" else "DEBUG")
    logging.getLogger("schedule").setLevel("WARNING")  # it tells of its own bookkeeping
    listener = _Listener(queue, writer)
    listener.start()
    return listener.flush


def _renderer(form: str) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer()
    return structlog.processors.LogfmtRenderer(key_order=["ts", "level", "event"], bool_as_flag=False)
