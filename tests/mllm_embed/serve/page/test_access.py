"""That everybody can use the page: by keyboard, by ear, on a phone, in the dark."""

from __future__ import annotations

from typing import Any

import pytest

from browsing.looks import FAINT, NAMELESS, SMALL
from browsing.tab import IDS, Tab


def test_everything_by_keyboard(tab: Tab) -> None:
    page = tab.open()
    card = "document.activeElement.closest('.card')?.querySelector('.id').textContent"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("a/b")
    assert page.input_value("#words") == "a/b", "a slash is a letter in a text"
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if seen[-1] == "choose":
            break
    assert seen[-1] == "choose", seen
    columns = page.evaluate("getComputedStyle(document.querySelector('#grid')).gridTemplateColumns.split(' ').length")
    for key, wanted in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + columns),
        ("ArrowLeft", columns),
        ("ArrowUp", 0),
        ("ArrowUp", 0),
        ("End", 59),
        *(("ArrowUp", 59 - columns * row) for row in range(1, 6)),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate(card) == IDS[wanted], key
        # what has the focus is in sight, and not under what stays above
        assert page.evaluate(
            """() => { const box = document.activeElement.getBoundingClientRect();
              const above = document.querySelector('#composer').getBoundingClientRect().bottom;
              return box.top >= above && box.bottom <= innerHeight; }"""
        ), key
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "look"
    page.keyboard.press("Enter")
    page.wait_for_selector("#closer[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Tab")
    with page.expect_response("**/v1/search"):
        page.keyboard.press("Enter")
    tab.settle()
    assert tab.questions()[-1]["id"] == IDS[0]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (768, "light"), (360, "dark")])
def test_it_can_be_read_and_touched(browser: Any, site: str, width: int, scheme: str) -> None:
    phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    tab = Tab(
        browser, site, viewport={"width": width, "height": 740}, color_scheme=scheme, reduced_motion="reduce", **phone
    )
    page = tab.open()

    def check(state: str) -> None:
        assert page.evaluate(NAMELESS) == [], state
        assert page.evaluate(FAINT) == [], state
        assert page.evaluate(SMALL) == [], state
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{state}: scrolls sideways"

    check("gallery")
    for summary in page.locator("summary:visible").all():
        if not summary.evaluate("(one) => one.parentElement.open"):
            summary.click()
    tab.go_on(1)
    tab.submit("on snow, " + "a very long sentence without an end " * 5 + "Donaudampfschifffahrtsgesellschaft" * 3)
    tab.until("document.querySelector('#answers').getAttribute('aria-busy') === 'false'")
    check("answers")
    for knob in page.locator(".knob input:visible:not([type=checkbox])").all():
        assert knob.evaluate("(one) => one.clientWidth") >= 100, "nobody hits a narrower slider"
    page.locator(".look").nth(0).click()
    page.wait_for_selector(".why .words")
    check("closer")
    assert page.evaluate("getComputedStyle(document.querySelector('.choose img')).transitionDuration") == "0s"
    assert tab.faults == []
    tab.context.close()


def test_what_a_screen_reader_is_told(tab: Tab) -> None:
    page = tab.open()
    tree = page.locator("body").aria_snapshot()
    for line in (
        '- heading "Search with a picture and words" [level=1]',
        '- search "What to search for":',
        '- button "Drop, paste or browse a picture"',
        '- textbox "What are you looking for?"',
        '- button "Search"',
        '- complementary "Filters":',
        "- main:",
        '- heading "Gallery" [level=2]',
        "- status: 70 pictures.",
        '- list "Pictures":',
        '- button "Go on from a folder/a picture.jpg":',
    ):
        assert line in tree, f"{line}\n{tree[:3000]}"
    tab.submit("a red ball")
    tab.go_on(0)
    tab.submit("on snow")
    page.wait_for_selector("#parts:not([hidden])")
    tree = page.locator("body").aria_snapshot()
    for line in ('- tab "Both" [selected]', '- tabpanel "Both":', '- slider "Edit strength"', '- slider "Cut-off"'):
        assert line in tree, f"{line}\n{tree[:3000]}"
    assert page.get_attribute("#alert", "role") == "alert"
    assert page.get_attribute("html", "lang") == "en"
