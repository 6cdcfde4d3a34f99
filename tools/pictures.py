"""Makes docs/pictures from the demo, in a real browser: `make pictures`. It takes a minute and a half."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, QUALITY, MOST_BYTES = 1280, 80, 150_000
PICTURES = {"status-page": ("/", 900), "group-page": ("/groups/production/migration", 900)}
SPEED = 3
PROGRESS = 0.65  # of the first run, so that its chart has a past and something still runs
DEADLINE_SECONDS = 300


def main() -> None:
    """Run the demo until there is something to see, and write a picture of each page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of these is on PATH: {', '.join(BROWSERS)}")
    command = [sys.executable, "-m", "exporter", "demo", "--web.listen-address=127.0.0.1:0", f"--speed={SPEED}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:  # noqa: S603 - ours
        try:
            url = next(found[1] for line in demo.stdout or () if (found := re.search(r"Status page +(\S+)/", line)))
            _wait(url)
            with (
                sync_playwright() as playwright,
                playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]) as chromium,
            ):
                page = chromium.new_page(color_scheme="light")
                for name, (path, height) in PICTURES.items():
                    page.set_viewport_size({"width": WIDTH, "height": height})
                    page.goto(url + path)
                    _write(page, FOLDER / f"{name}.webp")
        finally:
            demo.terminate()


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
