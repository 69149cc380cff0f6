"""A browser's window whose picture is taken for a guide: its options, and the picture as a small PNG."""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from mllm_embed.errors import ConfigError

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add what a picture of this name is written to, and of what window."""
    parser.add_argument("--output", type=Path, default=ASSETS / name, metavar="F")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 860), metavar=("W", "H"), help="of the window")
    parser.add_argument("--dark", action="store_true", help="as a system looks that is set to dark")


def chromium() -> str:
    """Return where Chromium is. Raise ConfigError where it is not installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise ConfigError("chromium is not installed; install it with: apt-get install chromium")
    return found


@contextmanager
def window(browser: str, arguments: argparse.Namespace) -> Iterator[Page]:
    """Within a `with`, a page that is still empty; at its end its picture is written."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        width, height = arguments.size
        scheme = "dark" if arguments.dark else "light"
        page = opened.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        yield page
        taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        taken.quantize(256, kmeans=2).save(arguments.output, optimize=True)  # half the bytes, and looks the same
        opened.close()
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1024:.0f} KiB")
