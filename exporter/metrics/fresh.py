"""The exporter's own families next to a view: both of one configuration, also while another one is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from exporter.metrics.exposition import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry


class _FreshState(NamedTuple):
    generation: int
    texts: Mapping[Format, bytes] | None  # as all stood before the change that is under way


class Fresh:
    """Encodes the registry for views of one generation, which a configuration is.

    The tracker freezes it before it changes anything, and thaws it when the first view of the next generation is shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._state = _FreshState(0, None)

    def freeze(self) -> None:
        """Answer as all stands now, until `thaw`."""
        if self._state.texts is None:
            self._state = self._state._replace(texts={form: form.encode(self._registry) for form in Format})

    def thaw(self, generation: int) -> None:
        """Answer for views of this generation only, as all stands then."""
        if generation != self._state.generation:
            self._state = _FreshState(generation, None)

    def encode(self, generation: int, form: Format) -> bytes | None:
        """Write the families next to a view of this generation; None: another one is active."""
        while (state := self._state).generation == generation:
            if state.texts is not None:
                return state.texts[form]
            text = form.encode(self._registry)
            if self._state is state:  # else a change began meanwhile, and the text may hold some of it
                return text
        return None
