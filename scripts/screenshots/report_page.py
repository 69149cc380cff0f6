"""Take the guide's picture of a report page: queries of the demo's scenes that a half of the query finds by itself.

    mllm-embed-eval run runs/demo/data/seen --model scripts/assets/base \
        --adapter scripts/assets/adapters/instructions --output runs/eval/shipped
    python scripts/screenshots/report_page.py runs/eval/shipped/report.html

Opens the page in a real browser, in a state that its address names as a link does, and takes a picture of the window.
Needs Chromium, Debian's say (apt-get install chromium), and Playwright, as the tests do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from window import add_options, chromium, window

from mllm_embed.errors import DataError, user_errors

STATE = "facet2=1&sort=gap"  # found by the picture alone, the composed query furthest behind first


@user_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="a report.html")
    parser.add_argument("--state", default=STATE, help=f"what stands after # in its address (default {STATE})")
    add_options(parser, "report.png")
    arguments = parser.parse_args()
    browser = chromium()
    if not arguments.page.is_file():
        raise DataError(f"{arguments.page} is no file: give a report.html of `mllm-embed-eval run`")
    with window(browser, arguments) as page:
        page.goto(f"{arguments.page.resolve().as_uri()}#{arguments.state}")
        page.wait_for_selector(".query")
        page.locator("#queries").evaluate("(queries) => queries.scrollIntoView()")
        page.wait_for_timeout(500)  # what comes into sight is drawn
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
