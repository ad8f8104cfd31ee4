"""Headless Chromium for the page's tests: the system's, or the one named in `CHROMIUM`.

Tests are skipped where there is none, unless `LONGTAKE_REQUIRE_BROWSER=1` says that there must be.
"""

import functools
import http.server
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium():
    """Return the browser's path, or None."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


REQUIRED = os.environ.get("LONGTAKE_REQUIRE_BROWSER") == "1"
needs_browser = pytest.mark.skipif(
    chromium() is None and not REQUIRED, reason="Chromium is not installed"
)


@contextmanager
def open_browser():
    """Start Chromium for as long as the block runs."""
    path = chromium()
    if path is None:
        pytest.fail("LONGTAKE_REQUIRE_BROWSER=1 but Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser=None, **options):
    """Open a page; an exception or an error on its console fails the test."""
    if browser is None:
        with open_browser() as own, open_page(own, **options) as page:
            yield page
        return
    context = browser.new_context(**options)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    page.problems = problems
    try:
        yield page
        assert not problems, problems
    finally:
        context.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def serve_folder(folder: Path):
    """Serve files over HTTP on a free port; yields the address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join(5)
