"""Take the guide's picture of a report page: queries of the demo's scenes that a half of the query finds by itself.

    mllm-embed-eval run runs/demo/data/seen --model scripts/assets/base \
        --adapter scripts/assets/adapters/instructions --output runs/eval/shipped
    python scripts/reports/screenshot_report.py runs/eval/shipped/report.html

Opens the page in a real browser, in a state that its address names as a link does, and takes a picture of the window.
Needs Chromium, Debian's say (apt-get install chromium), and Playwright, as the tests do.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from mllm_embed.errors import ConfigError, DataError, user_errors

ROOT = Path(__file__).resolve().parents[2]
STATE = "facet2=1&sort=gap"  # found by the picture alone, the composed query furthest behind first


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="a report.html")
    parser.add_argument("--state", default=STATE, help=f"what stands after # in its address (default {STATE})")
    parser.add_argument("--output", type=Path, default=ROOT / "scripts" / "assets" / "report.png", metavar="F")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 860), metavar=("W", "H"), help="of the window")
    parser.add_argument("--dark", action="store_true", help="as a system looks that is set to dark")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise ConfigError("chromium is not installed; install it with: apt-get install chromium")
    if not arguments.page.is_file():
        raise DataError(f"{arguments.page} is no file: give a report.html of `mllm-embed-eval run`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        width, height = arguments.size
        scheme = "dark" if arguments.dark else "light"
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.goto(f"{arguments.page.resolve().as_uri()}#{arguments.state}")
        page.wait_for_selector(".query")
        page.locator("#queries").evaluate("(queries) => queries.scrollIntoView()")
        page.wait_for_timeout(500)  # what comes into sight is drawn
        taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        taken.quantize(256, kmeans=2).save(arguments.output, optimize=True)  # half the bytes, and looks the same
        browser.close()
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
