"""The configuration file is read again when it changes, and what failed is tried again; time is an argument."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trustme
import yaml
from structlog.testing import capture_logs

from exporter.errors import StartError
from exporter.reloading import RETRY_FIRST, RETRY_MOST, ConfigFile, NeedsRestart, Reloading

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.config import Config

SETTLED = 10.0**11  # by any clock, the files were not written to lately


class Scene:
    """A configuration with one environment, what was applied of it, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.applied: list[Config] = []
        self.refusal: StartError | None = None
        self.failures = 0
        self.key("a")
        self.write("a")
        self.file = ConfigFile(folder / "config.yaml", {})
        self.file.load()
        self.reloading = Reloading(self.file, self._apply, self._failed, lambda: self.now)

    def _apply(self, config: Config) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.applied.append(config)

    def _failed(self) -> None:
        self.failures += 1

    def key(self, name: str) -> None:
        (self.folder / f"{name}.key").write_text(f"sk_test_{name}")

    def write(self, *names: str, **more: str) -> None:
        environments = [{"name": name, "api_key_file": f"{name}.key"} | more for name in names]
        (self.folder / "config.yaml").write_text(yaml.safe_dump({"environments": environments}))

    def look(self, seconds: float = 5.0) -> None:
        self.now += seconds
        self.reloading.look(SETTLED)

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.applied[-1].environments] if self.applied else []


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_key_that_comes_after_the_configuration_is_found(scene: Scene) -> None:
    scene.write("a", "b")
    scene.look()
    assert (scene.names, scene.failures) == ([], 1)
    scene.key("b")
    scene.look(0.1)
    assert scene.names == ["a", "b"]
    assert scene.failures == 1


def test_what_failed_is_tried_again_ever_more_rarely_and_told_once(scene: Scene) -> None:
    scene.refusal = StartError("no more descriptors")
    scene.write("a", rate_limit="5")
    scene.write("a", branch="feature")
    tries = []
    with capture_logs() as logs:
        for second in range(300):
            before = scene.failures
            scene.look(1.0)
            if scene.failures > before:
                tries.append(second)
    gaps = [after - before for before, after in pairwise(tries)]
    assert gaps == [RETRY_FIRST, 10, 20, 40, *[RETRY_MOST] * (len(gaps) - 4)]
    assert len(gaps) > 6
    assert [each["event"] for each in logs] == ["configuration not reloaded, the old one stays in force"]
    scene.refusal = StartError("another reason")
    with capture_logs() as logs:
        scene.look(RETRY_MOST)
    assert [each["error"] for each in logs] == ["another reason"]
    scene.refusal = None
    scene.look(RETRY_MOST)
    assert scene.names == ["a"]
    scene.look(RETRY_MOST)
    assert len(scene.applied) == 1


def test_what_needs_a_restart_is_not_tried_again(scene: Scene) -> None:
    scene.refusal = NeedsRestart("storage.path has changed")
    scene.write("a", branch="feature")
    for _ in range(60):
        scene.look()
    assert scene.failures == 1


def test_who_asks_for_a_reload_is_told_each_time(scene: Scene) -> None:
    scene.write("a", "b")
    verdicts: list[tuple[str | None, bool]] = []
    with capture_logs() as logs:
        for _ in range(2):
            scene.reloading.reload(lambda *verdict: verdicts.append(verdict))
    assert [conflict for _, conflict in verdicts] == [False, False]
    assert len(logs) == 2


def test_a_ca_file_with_another_content_is_read_again(scene: Scene) -> None:
    one, other = trustme.CA(), trustme.CA()
    authorities = scene.folder / "ca.pem"
    one.cert_pem.write_to_path(authorities)
    scene.write("a", ca_file="ca.pem")
    scene.look()
    assert len(scene.applied) == 1
    scene.look()
    assert len(scene.applied) == 1
    other.cert_pem.write_to_path(authorities)
    scene.look()
    assert len(scene.applied) == 2
