"""What sends the requests of each environment: its client and its fetch pool, exchanged whole when settings change."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from exporter.knock.connect import connect
from exporter.knock.pool import FetchPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from exporter.config import Environment
    from exporter.keys import Secret
    from exporter.knock.client import Client
    from exporter.net.room import Room
    from exporter.tracking.messages import Answered, Request


class Outlet(NamedTuple):
    """A client and the threads that use it; `traits` are the settings that both were made with."""

    traits: tuple[object, ...]
    client: Client
    pool: FetchPool

    def close(self) -> None:
        """End what is idle; requests on their way end by themselves."""
        self.pool.close()
        self.client.close()


def _traits(each: Environment) -> tuple[object, ...]:
    connection = (each.base_url, each.branch, each.ca_file, each.proxy, each.proxy_from_environment)
    return (*connection, each.timeout, each.max_in_flight)


class Outlets:
    """One for each environment, by name; large answers of all take their places in one `room`."""

    def __init__(self, deliver: Callable[[Answered], None], room: Room) -> None:
        self._deliver = deliver
        self._room = room
        self._outlets: Mapping[str, Outlet] = {}

    def fetch(self, request: Request) -> float:
        """Send a request and return 0, or the seconds after which there may be room for its answer; never blocks."""
        wait = 0.0 if request.checks_key else self._room.make(request.environment, request.id)
        if not wait:
            self._outlets[request.environment].pool.submit(request)
        return wait

    def use_key(self, environment: str, key: Secret) -> None:
        """Send an environment's requests with this key from now on."""
        self._outlets[environment].client.use_key(key)

    def prepare(self, environments: Iterable[Environment], keys: Mapping[str, Secret]) -> Callable[[], None]:
        """Make what other settings need, and return what puts it in place; that never blocks.

        Raises StartError for settings that cannot be used on this machine; nothing has changed then.
        """
        fresh = {each.name: self._outlet(each, keys[each.name]) for each in environments}

        def switch() -> None:
            old, self._outlets = self._outlets, fresh
            for name, outlet in fresh.items():
                if outlet is old.get(name):
                    outlet.client.use_key(keys[name])
            for name, outlet in old.items():
                if outlet is not fresh.get(name):
                    outlet.close()

        return switch

    def _outlet(self, environment: Environment, key: Secret) -> Outlet:
        traits = _traits(environment)
        present = self._outlets.get(environment.name)
        if present is not None and present.traits == traits:
            return present
        client = connect(environment, key, self._room)
        return Outlet(
            traits, client, FetchPool(environment.name, environment.max_in_flight, client.fetch, self._deliver)
        )
