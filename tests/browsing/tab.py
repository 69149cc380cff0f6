"""A tab of a browser in which the page is tried, and a gallery to try it on whose ids have letters of all kinds."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import httpx
from PIL import Image, ImageDraw

ODD = [
    "a folder/a picture.jpg",
    "<script>document.title='broken'</script>",
    "50% \"of\" 'it' & more",
    "%2e%2e%2f?width=1#x",
    "лиса 🦊\u2028 ŝ",
    "__proto__",
]
IDS = [*ODD, *(f"plain-{at:02}" for at in range(len(ODD), 70))]
TEXT = IDS[-1]  # a row of words, which has no picture
GROUNDS = {"snow": (235, 240, 245), "sand": (220, 190, 120), "grass": (90, 160, 80), "2024": (120, 120, 130)}
WAIT = 30_000  # milliseconds until a test gives up, on a machine with much else to do


def picture(at: int) -> Image.Image:
    """Return a ball on a ground; each number has another one."""
    made = Image.new("RGB", (96, 96), list(GROUNDS.values())[at % 4])
    x, y = (at * 37) % 60, (at * 53) % 60
    ImageDraw.Draw(made).ellipse((x, y, x + 30, y + 30), fill=((at * 80) % 255, (at * 47) % 255, (at * 11) % 255))
    return made


def facts(at: int) -> dict[str, Any]:
    """Return what is kept beside a picture of the gallery; number 5 has but a name."""
    ground = list(GROUNDS)[at % 4 if at < 40 else 0]
    made = {"ground": ground, "price": at * 1.5, "sale": at % 3 == 0, "name": f"no. {at}"}
    return {key: value for key, value in made.items() if at != 5 or key == "name"}


def as_bytes(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def in_base64(image: Image.Image) -> str:
    """Return a picture as a PNG file in base64."""
    return base64.b64encode(as_bytes(image)).decode()


def answers(site: str, **asked: Any) -> list[str]:
    """Return the ids of what the server itself answers."""
    return [hit["id"] for hit in hits(site, **asked)]


def hits(site: str, **asked: Any) -> list[dict[str, Any]]:
    """Return what the server itself answers."""
    if isinstance(image := asked.get("image"), Image.Image):
        asked["image"] = f"data:image/png;base64,{in_base64(image)}"
    response = httpx.post(f"{site}/v1/search", json={"k": 24, **asked}, timeout=30)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["hits"]
    return found


class Tab:
    """A tab, with what went wrong in it and whom it asked."""

    def __init__(self, browser: Any, site: str, **options: Any):
        self.site = site
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(WAIT)
        self.page = self.context.new_page()
        self.asked: list[Any] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.faults.append(said.text))
        self.page.on("dialog", lambda dialog: self.faults.append(dialog.message) or dialog.dismiss())

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def open(self) -> Any:
        """Open the page."""
        self.page.goto(f"{self.site}/")
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the page shows what it was asked for, and is not asking any more."""
        self.page.wait_for_selector("main[aria-busy=false] :is(.card, #empty:not([hidden]))")

    def submit(self, words: str) -> None:
        """Search with words, and with the picture where there is one."""
        self.page.fill("#words", words)
        with self.page.expect_response("**/v1/search"):
            self.page.press("#words", "Enter")
        self.settle()

    def go_on(self, at: int) -> None:
        """Go on from a card."""
        with self.page.expect_response("**/v1/search"):
            self.page.locator(".choose").nth(at).click()
        self.settle()

    def bring(self, image: Image.Image, name: str = "mine.png") -> None:
        """Choose a file."""
        with self.page.expect_response("**/v1/search"):
            self.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": as_bytes(image)})
        self.settle()

    def ids(self) -> list[str]:
        """Return the ids of the cards that are in sight."""
        found: list[str] = self.page.locator(".card:not([hidden]) .id").all_text_contents()
        return found

    def trail(self) -> list[str]:
        """Return the turns, in words."""
        return [text.strip() for text in self.page.locator("#trail li").all_text_contents()]

    def here(self) -> str:
        """Return the turn that is shown, in words."""
        return str(self.page.locator("#trail [aria-current=step]").text_content()).strip()

    def questions(self) -> list[dict[str, Any]]:
        """Return all that was searched for."""
        return [request.post_data_json for request in self.asked if request.url.endswith("/v1/search")]

    def until(self, expression: str, arg: Any = None) -> None:
        """Wait until an expression of JavaScript holds. Playwright's own way to is against the page's policy."""
        end = time.monotonic() + WAIT / 1000
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < end, f"{expression} ({arg}) never held"
            self.page.wait_for_timeout(20)

    def wait_for_words(self, words: str) -> None:
        """Wait until a turn is shown, by its words."""
        self.until("(words) => document.querySelector('#words').value === words", words)
        self.settle()

    def wait_for_first(self, wanted: str) -> None:
        """Wait until the first card has an id."""
        self.until("(id) => document.querySelector('.id').textContent === id", wanted)
        self.settle()

    def hosts(self) -> set[str]:
        """Return whom the page asked, but for what it holds itself."""
        return {request.url.split("/")[2] for request in self.asked if request.url.startswith(("http", "ws"))}
