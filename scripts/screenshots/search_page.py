"""Take the README's picture of the page: two turns of a search among the demo's scenes.

    mllm-embed encode runs/demo/data/unseen --keep background count things --output runs/demo/unseen \
        --model scripts/assets/base --adapter scripts/assets/adapters/instructions
    python scripts/screenshots/search_page.py runs/demo/unseen

Serves the gallery, does in a real browser what a user does, and takes a picture of the window. Needs Chromium, Debian's
say (apt-get install chromium), and Playwright, as the tests do.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from window import add_options, chromium, window

from mllm_embed.errors import ConfigError, user_errors

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--model", "scripts/assets/base", "--adapter", "scripts/assets/adapters/instructions"]
START = "005-00"  # a castle, and more, on a beach
TURNS = ("the same picture without the castle", "on a wooden table instead")
_ANSWERED = "main[aria-busy=false] .card .score"
_SECONDS = 600  # until a model is loaded, and a folder's pictures are embedded


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery", help="a store of the demo's unseen scenes, or their folder")
    add_options(parser, "page.png")
    arguments = parser.parse_args()
    browser = chromium()
    with _served(arguments.gallery) as address, window(browser, arguments) as page:
        page.goto(address)
        _search(page)
    return 0


def _search(page: Any) -> None:
    """Start from a picture of the gallery, say what to change, and go on from the best answer."""
    start = page.locator(".card", has=page.get_by_text(START, exact=True)).locator(".choose")
    page.wait_for_selector(".card")
    while not start.count():
        with page.expect_response("**/v1/gallery/rows?*"):
            page.click("#more")
        page.wait_for_selector("main[aria-busy=false]")
    start.click()
    page.wait_for_selector(_ANSWERED)
    for at, words in enumerate(TURNS):
        if at:
            page.locator(".choose").first.click()
            page.wait_for_selector("#trail li:nth-child(3) [aria-current]")
        page.fill("#words", words)
        page.press("#words", "Enter")
        page.wait_for_selector(".mark")
    page.wait_for_load_state("networkidle")
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # what moves comes to rest


@contextmanager
def _served(gallery: str) -> Iterator[str]:
    """Serve a gallery with the embedded model on a free port, and give the address when it is ready."""
    command = [sys.executable, "-m", "mllm_embed.cli", "serve", gallery, *MODEL, "--port", "0", "--log", "text"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            found = re.search(r"http://[^,\s]+", said)
            if found is None:
                raise ConfigError("the server does not start; what it says above tells why")
            _wait(found[0], process)
            yield found[0]
        finally:
            process.terminate()


def _wait(address: str, process: subprocess.Popen[str]) -> None:
    """Wait until a server is ready. Raises ConfigError where it ends, or takes too long."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        if httpx.get(f"{address}/ready", timeout=_SECONDS).is_success:
            return
        time.sleep(1)
    raise ConfigError("the server did not get ready; what it says above tells why")


if __name__ == "__main__":
    raise SystemExit(main())
