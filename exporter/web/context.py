"""What the web application is given of the rest of the exporter."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from exporter import __version__
from exporter.config import Config
from exporter.tracking.transitions import Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.metrics.exposition import View
    from exporter.metrics.own import Activity
    from exporter.web.lifecycle import Reload
    from exporter.web.registration import RegistrationService


DOCUMENTATION = f"https://github.com/knock-exporter/knock-exporter/blob/v{__version__}/docs/"


@dataclass(frozen=True, slots=True)
class ConfigurationStatus:
    """Where the active configuration came from and when; times are Unix seconds.

    `file` is None where there is no file. `problem` is why the last reload was refused (None: it was not),
    `refused_at` since when.
    """

    loaded_at: float = 0.0
    file: str | None = None
    problem: str | None = None
    refused_at: float = 0.0


@dataclass(frozen=True, slots=True)
class AppContext:
    """What the pages show of the rest, and what they pass on to it; none of it blocks.

    `unhealthy` and `unready` return what is wrong, or None. `monotonic` judges staleness, `wall` tells Unix seconds.
    `config` is the active configuration, `external_url` where people reach the port (no slash at its end; None: not
    known). `service` takes registrations (None: there are no such calls), `reload` has the configuration read again
    (None: off). `scraped` is told when there was a scrape (monotonic), once a second at most. `configuration` tells
    where the active configuration came from, and whether a newer one was refused. `flags` have each flag's name, value,
    and whether it is not the default. `notice` stands on each page.
    """

    view: Callable[[], View]
    activity: Activity
    unhealthy: Callable[[], str | None]
    unready: Callable[[], str | None]
    monotonic: Callable[[], float]
    wall: Callable[[], float] = time.time
    config: Callable[[], Config] = lambda: Config(())
    telemetry_path: str = "/metrics"
    external_url: str | None = None
    service: RegistrationService | None = None
    reload: Reload | None = None
    scraped: Callable[[float], object] = lambda _at: None
    configuration: Callable[[], ConfigurationStatus] = ConfigurationStatus
    flags: tuple[tuple[str, str, bool], ...] = ()
    notice: str = ""

    @property
    def prefix(self) -> str:
        """What the paths of links begin with: the path of the external URL, without a slash at its end."""
        return urlsplit(self.external_url or "").path

    @property
    def now(self) -> Moment:
        """Both clocks."""
        return Moment(self.monotonic(), self.wall())

    def refused(self, reason: str) -> None:
        """Count a request that was refused."""
        self.activity.http_refused.labels(reason).inc()
