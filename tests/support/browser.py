"""A real browser: pages opened as different people see them, and watched for what must never happen."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright
from programs import TOOLS, do_without

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request, WebError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # which root cannot have
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # whatever a page asks for, nothing leaves the machine
)
AXE = TOOLS / "axe" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
HEIGHT = 900
NARROW = 360
SECONDS = 10.0
NOWHERE = ("about", "blob", "data")  # schemes that reach no host


def browser_program() -> str:
    """Find a browser, or skip and say how to get it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or do_without("chromium is missing: run tests/e2e/get-web-tools, or put it on PATH")


def axe_source() -> str:
    """Return the text of axe-core, or skip and say how to get it."""
    return AXE.read_text() if AXE.exists() else do_without("npm's axe-core is missing: run tests/e2e/get-web-tools")


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """Run a browser.

    Until it ends, Playwright's event loop runs in this thread, and nobody else can have one: `asyncio.run` fails.
    """
    program = browser_program()
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program, args=FLAGS) as browser:
        yield browser


@dataclass(frozen=True, slots=True)
class Reader:
    """Who looks at a page, and with what; `width` is that of the window, in CSS pixels."""

    dark: bool = False
    width: int = 1280
    still: bool = False  # asks for reduced motion
    scripts: bool = True
    forced_colors: bool = False

    def media(self) -> dict[str, Any]:
        """Return what a page is told of these, as Playwright names it."""
        return {
            "color_scheme": "dark" if self.dark else "light",
            "reduced_motion": "reduce" if self.still else "no-preference",
            "forced_colors": "active" if self.forced_colors else "none",
        }


class Visits:
    """Opens pages, and keeps what went wrong on them: `problems` has to stay empty.

    A problem is an error in the console (a violated Content-Security-Policy is one), one that no script caught, a
    dialog, a second window, or a request to another host than those that were visited. Console errors that match a
    pattern of `excused` are none: Chromium tells each answer of 4xx and 5xx there.
    """

    def __init__(self, browser: Browser) -> None:
        self.problems: list[str] = []
        self.excused: list[str] = []
        self._browser = browser
        self._hosts: set[str] = set()
        self._page: Page | None = None
        self._scripts = True

    def __call__(self, url: str, reader: Reader = Reader()) -> Page:
        """Open a page as this reader, in place of the one before: each profile costs Chromium seconds."""
        if self._page is None or not (reader.scripts and self._scripts):  # axe switches scripts on where they are off
            self.close()
            self._page, self._scripts = self._open(reader), reader.scripts
        self._hosts.add(urlsplit(url).netloc)
        self._page.emulate_media(**reader.media())
        self._page.set_viewport_size({"width": reader.width, "height": HEIGHT})
        self._page.goto(url)
        return self._page

    def leave(self) -> None:
        """Go to an empty page, so that nothing refreshes itself, and forget what was visited."""
        if self._page is not None:
            self._page.goto("about:blank")
        self.problems.clear()
        self.excused.clear()
        self._hosts.clear()

    def close(self) -> None:
        """Close the page, and forget its profile."""
        if self._page is not None:
            self._page.context.close()
            self._page = None

    def _open(self, reader: Reader) -> Page:
        context = self._browser.new_context(java_script_enabled=reader.scripts)
        context.set_default_timeout(SECONDS * 1000)
        page = context.new_page()
        self._watch(context)
        return page

    def _watch(self, context: BrowserContext) -> None:
        def heard(message: ConsoleMessage) -> None:
            told = f"console: {message.text} ({message.location['url']})"
            if message.type == "error" and not any(re.search(each, told) for each in self.excused):
                self.problems.append(told)

        def asked(request: Request) -> None:
            target = urlsplit(request.url)
            if target.scheme not in NOWHERE and target.netloc not in self._hosts:
                self.problems.append(f"request to another host: {request.url}")

        def interrupted(dialog: Dialog) -> None:
            self.problems.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        def broke(error: WebError) -> None:
            self.problems.append(f"script: {error.error}")

        context.on("console", heard)
        context.on("request", asked)
        context.on("dialog", interrupted)
        context.on("weberror", broke)
        context.on("page", lambda page: self.problems.append(f"second window: {page.url}"))


def axe(page: Page) -> list[str]:
    """Return what keeps people out of this page, as axe-core finds it: a text for each rule that is broken."""
    return [_told(each) for each in _run_axe(page, "violations")]


def axe_unsure(page: Page) -> list[str]:
    """Return what axe-core could not judge by itself: somebody has to look."""
    return [_told(each) for each in _run_axe(page, "incomplete")]


def _run_axe(page: Page, kind: str) -> list[dict[str, Any]]:
    _let_scripts_run(page)
    # Not as a script of the page: its Content-Security-Policy would rightly refuse that.
    page.evaluate(axe_source())
    options = json.dumps({"runOnly": {"type": "tag", "values": RULES}, "resultTypes": [kind]})
    found: list[dict[str, Any]] = page.evaluate(f"async () => (await axe.run(document, {options})).{kind}")
    return found


def _let_scripts_run(page: Page) -> None:
    """Switch scripts on where they were off while the page was loaded: axe-core needs them, and would wait for ever."""
    session = page.context.new_cdp_session(page)
    for off in (True, False):  # a new session takes them to be on already, and would do nothing
        session.send("Emulation.setScriptExecutionDisabled", {"value": off})
    session.detach()


def _told(rule: dict[str, Any]) -> str:
    head = f"{rule['id']} ({rule['impact']}): {rule['help']}"
    return "\n".join([head, *(_place(node) for node in rule["nodes"])])


def _place(node: dict[str, Any]) -> str:
    why = " ".join(node.get("failureSummary", "").split())
    return f"    {' '.join(map(str, node['target']))}: {why}"


def overhang(page: Page) -> int:
    """Return by how many pixels the page is wider than its window: it has to be scrolled sideways then."""
    root = "document.documentElement"
    wider: int = page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")
    return wider


def focused(page: Page) -> str:
    """Tell which element has the keyboard's focus, by its name, id or text; "" where none has."""
    told: str = page.evaluate(
        """() => {
            const it = document.activeElement;
            if (!it || it === document.body || it === document.documentElement) return "";
            const text = it.getAttribute("aria-label") || it.name || it.id || it.textContent;
            return `${it.localName} ${text.trim().slice(0, 60)}`;
        }"""
    )
    return told


def tabbed(page: Page, most: int = 500) -> list[str]:
    """Press Tab until the focus leaves the page, and return where it was; fail past so many."""
    stops: list[str] = []
    page.keyboard.press("Tab")
    while found := focused(page):
        stops.append(found)
        assert len(stops) <= most, f"the focus does not leave the page: {stops[-10:]}"
        page.keyboard.press("Tab")
    return stops


def snapshot(page: Page, file: Path) -> Path:
    """Take a picture of the whole page, to be looked at."""
    page.screenshot(path=file, full_page=True)
    return file
