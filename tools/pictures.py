"""Makes docs/pictures from the demo, in a real browser: `make pictures`. It takes a quarter of an hour.

That of the dashboard shows what a real Prometheus answers to the dashboard's queries, drawn by `tools/dashboard`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import Browser, Page, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
FOLDER, MONITORING, DRAWING = ROOT / "docs" / "pictures", ROOT / "monitoring", ROOT / ".tools" / "dashboard"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, QUALITY, MOST_BYTES = 1280, 80, 150_000
PICTURES = {"status-page": ("/", 900), "group-page": ("/groups/production/migration", 900)}
SPEED = 3
PROGRESS = 0.65  # of the first run, so that its chart has a past and something still runs
DEADLINE_SECONDS = 300
DASHBOARD_WIDTH, DASHBOARD_ROWS = 1600, 31  # of the grid: as far as the graphs that are looked at first
DASHBOARD_SECONDS = 800  # three runs and a third of the next
SCRAPE = "5s"


def main() -> None:
    """Run the demo until there is something to see, and write a picture of each page and of the dashboard."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    prometheus = shutil.which("prometheus")
    if browser is None:
        sys.exit(f"none of these is on PATH: {', '.join(BROWSERS)}")
    if prometheus is None:
        sys.exit("prometheus is not on PATH")
    with (
        _demo(speed=1) as watched,
        _scraped(prometheus, watched) as database,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]) as chromium,
    ):
        until = time.monotonic() + DASHBOARD_SECONDS
        with _demo(SPEED) as url:
            _wait(url)
            page = chromium.new_page(color_scheme="light")
            for name, (path, height) in PICTURES.items():
                page.set_viewport_size({"width": WIDTH, "height": height})
                page.goto(url + path)
                _write(page, FOLDER / f"{name}.webp")
        time.sleep(max(0.0, until - time.monotonic()))
        _write(_drawn(chromium, database), FOLDER / "dashboard.webp")


@contextlib.contextmanager
def _demo(speed: int) -> Iterator[str]:
    command = [sys.executable, "-m", "exporter", "demo", "--web.listen-address=127.0.0.1:0", f"--speed={speed}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:  # noqa: S603 - ours
        lines = demo.stdout or iter(())
        try:
            yield next(found[1] for line in lines if (found := re.search(r"Status page +(\S+)/", line)))
        finally:
            demo.terminate()


@contextlib.contextmanager
def _scraped(program: str, url: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "prometheus.yaml"
        job = {"job_name": "knock", "static_configs": [{"targets": [url.removeprefix("http://")]}]}
        often = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
        whole = {"global": often, "rule_files": [f"{MONITORING}/rules/*.yaml"], "scrape_configs": [job]}
        config.write_text(json.dumps(whole))
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder}/data", "--log.level=error"]
        with subprocess.Popen([*command, f"--web.listen-address={address}"]) as prometheus:  # noqa: S603 - the user's
            try:
                yield f"http://{address}"
            finally:
                prometheus.terminate()
                prometheus.wait()


def _drawn(chromium: Browser, database: str) -> Page:
    """Return a page of Prometheus' origin, so that it may ask, which shows the beginning of the dashboard."""
    panels = json.loads((MONITORING / "dashboards" / "overview.json").read_text())["panels"]
    shown = [panel for panel in panels if panel["gridPos"]["y"] < DASHBOARD_ROWS]
    page = chromium.new_page(color_scheme="light")
    page.set_viewport_size({"width": DASHBOARD_WIDTH, "height": 8 + 38 * DASHBOARD_ROWS})
    icons = DRAWING / "node_modules" / "@grafana" / "ui" / "dist" / "public" / "img" / "icons"
    page.route("**/img/icons/**", lambda route: route.fulfill(path=icons / route.request.url.partition("/icons/")[2]))
    page.goto(f"{database}/-/healthy")
    page.add_style_tag(path=DRAWING / "bundle.css")
    page.add_script_tag(path=DRAWING / "bundle.js")
    now = int(time.time())
    look = {"start": now - DASHBOARD_SECONDS, "end": now}
    page.evaluate("all => draw(all)", {"panels": shown, "look": look, "width": DASHBOARD_WIDTH})
    return page


def _wait(url: str) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < until:
        with urllib.request.urlopen(f"{url}/api/v1/groups/production") as response:  # noqa: S310 - the demo's own
            progress = {each["group"]: each["progress"] or 0.0 for each in json.load(response)["groups"]}
        if progress.get("migration", 0.0) >= PROGRESS:
            return
        time.sleep(1)
    sys.exit(f"the demo's run has not got to {PROGRESS:.0%} within {DEADLINE_SECONDS} s")


def _write(page: Page, file: Path) -> None:
    # Playwright itself writes PNG and JPEG; of text, WebP is a third of either.
    shot = page.context.new_cdp_session(page).send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    content = base64.b64decode(shot["data"])
    if len(content) > MOST_BYTES:
        sys.exit(f"{file.name} has {len(content):,} bytes, more than {MOST_BYTES:,}")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    sys.stdout.write(f"{file.name}: {len(content):,} bytes\n")


if __name__ == "__main__":
    main()
