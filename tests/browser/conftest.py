"""A real browser on the real server; whatever a page complains about fails the test."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app.core.settings import Settings
from tests.conftest import settings_for

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TELL_VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
    console.error("Policy violated:", event.effectiveDirective, event.blockedURI))"""

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def chromium(migrated_sqlite: Path) -> Iterator[Browser]:
    """Chromium; it starts after the migrations, which need an event loop of their own."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("Chromium is not installed: the browser tests did not run")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visits:
    """Opens pages and collects what they complain about.

    Those are errors on the console, uncaught exceptions, violations of the content security
    policy, and requests to any host but the one that was visited.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._origins: list[str] = []
        self._faults: list[str] = []
        self._expected: list[str] = []

    def context(self, **options: Any) -> BrowserContext:
        """A browser profile of its own."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(20_000)
        context.add_init_script(TELL_VIOLATIONS)
        context.on("console", lambda said: self._note(said.text) if said.type == "error" else None)
        context.on("weberror", lambda thrown: self._note(f"Uncaught: {thrown.error}"))
        context.on("request", lambda request: self._requested(request.url))
        context.on("page", lambda page: page.on("websocket", lambda ws: self._requested(ws.url)))
        self._contexts.append(context)
        return context

    def open(self, origin: str, path: str = "/", *, context: BrowserContext | None = None) -> Page:
        """A tab that shows this path, in a profile of its own where none is given."""
        self._origins.append(origin)
        page = (context or self.context()).new_page()
        page.goto(origin + path)
        return page

    def allow(self, origin: str) -> None:
        """Let pages ask another origin too, which the test has started."""
        self._origins.append(origin)

    def expect_fault(self, pattern: str) -> None:
        """Accept what the test itself provokes: the console repeats every refused request."""
        self._expected.append(pattern)

    def end(self) -> list[str]:
        """Close everything and return the complaints that no test provoked."""
        for context in self._contexts:
            context.close()
        return [f for f in self._faults if not any(re.search(e, f) for e in self._expected)]

    def _note(self, fault: str) -> None:
        self._faults.append(fault)

    def _requested(self, url: str) -> None:
        same = url.replace("ws://", "http://", 1)
        if not same.startswith(("data:", "blob:", *(f"{o}/" for o in self._origins))):
            self._note(f"Request to another host: {url}")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """As on a developer's machine, where a mail is shown on the page that caused it."""
    return settings_for(database_url, environment="development", mail_directory=tmp_path / "mail")


@pytest.fixture
def visits(chromium: Browser) -> Iterator[Visits]:
    """Pages whose complaints fail the test."""
    visits = Visits(chromium)
    yield visits
    assert visits.end() == []


def settled(page: Page) -> None:
    """Wait until the page has asked for all that it asks for at its start."""
    expect(page.locator("#page")).to_have_attribute("aria-busy", "false")


def low_contrast(page: Page) -> list[str]:
    """The texts in sight whose contrast is below WCAG AA (4.5, large text 3)."""
    texts: list[str] = page.evaluate(CONTRAST)
    return texts


CONTRAST = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => {
    const [r, g, b] = rgba(color).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return "white";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    const seen = { opacityProperty: true, visibilityProperty: true };
    if (!text || !element.checkVisibility(seen)) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(style.color), luminance(background(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}: ${text}`);
  }
  return found;
}"""
