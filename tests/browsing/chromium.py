"""A browser to try pages in.

Needs Playwright and a Chromium (Debian's: apt-get install chromium); tests that do are skipped where they are missing.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser, and end it."""
    api = pytest.importorskip("playwright.sync_api", reason="the page is NOT tested: Playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("the page is NOT tested in a browser: apt-get install chromium")
    # a browser reserves more addresses than a test may have: it starts without that limit, which it would inherit
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        playwright = api.sync_playwright().start()
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    yield browser
    browser.close()
    playwright.stop()
