"""What sends the requests of each environment: its client and its fetch pool, exchanged whole when settings change."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import structlog

from exporter import files
from exporter.errors import StartError
from exporter.knock.client import connect
from exporter.knock.pool import FetchPool
from exporter.tracking.messages import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from exporter.config import EnvironmentSettings
    from exporter.keys import Secret
    from exporter.knock.client import Client
    from exporter.knock.memory_budget import MemoryBudget
    from exporter.tracking.messages import PollRequest, PollResponse

log = structlog.get_logger()


class EnvironmentClient(NamedTuple):
    """A client and the threads that use it; `made_of` are the settings that both were made with, and the CA file."""

    made_of: tuple[EnvironmentSettings, tuple[bytes, ...]]
    ca_file: files.Watch
    client: Client
    pool: FetchPool

    def close(self) -> None:
        """End what is idle; requests on their way end by themselves."""
        self.pool.close()
        self.client.close()


def _close(clients: Mapping[str, EnvironmentClient], kept: Mapping[str, EnvironmentClient]) -> None:
    for name, made in clients.items():
        if made is not kept.get(name):
            made.close()


class EnvironmentClients:
    """One for each environment, by name. `deliver` is the tracker's inbox.

    Large answers of all are reserved in one `budget`.
    """

    def __init__(self, deliver: Callable[[PollResponse | Exchange], None], budget: MemoryBudget) -> None:
        self._deliver = deliver
        self._budget = budget
        self._clients: Mapping[str, EnvironmentClient] = {}  # of the tracker's thread
        self._prepared = self._clients  # what those will be once all that was prepared is in place

    def fetch(self, request: PollRequest) -> float:
        """Send a request and return 0, or the seconds after which there may be room for its answer; never blocks."""
        wait = 0.0 if request.checks_key else self._budget.reserve(request.environment, request.id)
        if not wait:
            self._clients[request.environment].pool.submit(request)
        return wait

    def use_key(self, environment: str, key: Secret) -> None:
        """Send an environment's requests with this key from now on."""
        self._clients[environment].client.use_key(key)

    def prepare(self, environments: Iterable[EnvironmentSettings], keys: Mapping[str, Secret]) -> Callable[[], None]:
        """Make what other settings or CA files need, and return what puts it in place; that never blocks.

        Raises StartError for settings that cannot be used on this machine; nothing has changed then.
        """
        fresh: dict[str, EnvironmentClient] = {}
        try:
            for each in environments:
                fresh[each.name] = self._made_client(each, keys[each.name])
        except BaseException:
            _close(fresh, self._prepared)
            raise
        self._prepared = fresh

        def switch() -> None:
            for name, made in fresh.items():
                made.client.use_key(keys[name])
            self._put_in_place(fresh)

        return switch

    def check_for_changes(
        self, environments: Iterable[EnvironmentSettings], key_of: Callable[[str], Secret], wall: float
    ) -> None:
        """Use the CA files that have changed; one that is broken leaves the old authorities trusted."""
        for each in environments:
            if not self._prepared[each.name].ca_file.changed(wall):
                continue
            try:
                made = self._made_client(each, key_of(each.name))
            except StartError as error:
                log.warning("ca_file cannot be used, keeping the old one", environment=each.name, error=str(error))
                continue
            if made is not self._prepared[each.name]:
                self._prepared = fresh = {**self._prepared, each.name: made}
                self._deliver(Exchange(partial(self._put_in_place, fresh)))
                log.info("using the changed ca_file", environment=each.name)

    def _put_in_place(self, fresh: Mapping[str, EnvironmentClient]) -> None:
        old, self._clients = self._clients, fresh
        _close(old, fresh)

    def _made_client(self, environment: EnvironmentSettings, key: Secret) -> EnvironmentClient:
        ca_file = files.Watch([environment.ca_file] if environment.ca_file else [])
        made_of = environment.without_operations(), ca_file.seen
        present = self._prepared.get(environment.name)
        if present is not None and present.made_of == made_of:
            return present
        client = connect(environment, key, self._budget)
        pool = FetchPool(environment.name, environment.max_in_flight, client.fetch, self._deliver)
        return EnvironmentClient(made_of, ca_file, client, pool)
