"""compose.yaml and what it mounts fit together: files are there, images are pinned, nothing is open to the network."""

from __future__ import annotations

import re
from typing import Any

import click
import promql
import pytest
import yaml

from exporter.cli import main

COMPOSE = yaml.safe_load((promql.MONITORING / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MOUNTS = [(name, mount) for name, service in SERVICES.items() for mount in service.get("volumes", ())]


@pytest.mark.parametrize(("service", "mount"), MOUNTS)
def test_what_is_mounted_is_there_and_only_read(service: str, mount: str) -> None:
    here, _inside, mode = mount.split(":")
    assert (promql.MONITORING / here).exists()
    assert mode == "ro"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_pinned_and_ports_are_this_machines(service: str) -> None:
    made = SERVICES[service]
    assert "build" in made or re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", made["image"])
    assert all(port.startswith("127.0.0.1:") for port in made["ports"])


def test_prometheus_scrapes_the_exporter_and_tells_alertmanager_by_their_names() -> None:
    config = yaml.safe_load((promql.MONITORING / "prometheus.yaml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert jobs["knock"] == ["knock-exporter:10187"]
    assert config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["alertmanager:9093"]
    assert {"knock-exporter", "alertmanager"} <= SERVICES.keys()
    rules = dict(mount.split(":")[:2] for mount in SERVICES["prometheus"]["volumes"])["./rules"]
    assert config["rule_files"] == [f"{rules}/*.yaml"]


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    folder = promql.MONITORING / "grafana" / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    provider = yaml.safe_load((folder / "dashboards" / "knock.yaml").read_text())["providers"][0]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    assert mounts["./dashboards"] == provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.removeprefix(provider["options"]["path"] + "/") in {file.name for file in promql.DASHBOARDS}


def test_programs_know_where_a_browser_reaches_them() -> None:
    for name in ("knock-exporter", "prometheus", "alertmanager"):
        port = SERVICES[name]["ports"][0].split(":")[1]
        assert f"--web.external-url=http://localhost:{port}" in SERVICES[name]["command"]
    assert SERVICES["grafana"]["environment"]["GF_SERVER_ROOT_URL"] == "http://localhost:3000"


def test_the_exporter_takes_its_flags() -> None:
    name, *arguments = SERVICES["knock-exporter"]["command"]
    context = click.Context(main, **main.context_settings)
    command = main.get_command(context, name)
    assert command is not None
    command.make_context(name, arguments, parent=context)


def test_the_readme_shows_the_configuration_that_is_checked() -> None:
    readme = (promql.MONITORING / "README.md").read_text()
    shown = yaml.safe_load(re.findall(r"^```yaml\n(.+?)^```", readme, re.MULTILINE | re.DOTALL)[0])
    real = yaml.safe_load((promql.MONITORING / "prometheus.yaml").read_text())
    assert shown == {name: real[name] for name in ("global", "rule_files", "alerting")} | {
        "scrape_configs": [job for job in real["scrape_configs"] if job["job_name"] == "knock"]
    }
