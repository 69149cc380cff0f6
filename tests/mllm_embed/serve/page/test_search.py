"""What people do with the page, in a real browser."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from browsing.tab import IDS, ODD, TEXT, Tab, answers, as_bytes, facts, hits, in_base64, picture

Serve = Callable[[Any], contextlib.AbstractContextManager[str]]
KEY = "correct-horse-battery-staple"
SET_CUT = """(value) => {
  const cut = document.querySelector("#cut");
  cut.value = value;
  cut.dispatchEvent(new Event("input"));
}"""


def test_the_gallery_can_be_looked_through(tab: Tab) -> None:
    page = tab.open()
    assert tab.ids() == IDS[:60]
    assert "70 pictures" in page.inner_text("#gallery-facts")
    tab.until("[...document.querySelectorAll('.card img')].slice(0, 8).every((image) => image.naturalWidth > 0)")
    page.get_by_role("button", name="More pictures (10 left)").click()
    tab.until("document.querySelectorAll('.card').length === 70")
    assert tab.ids() == IDS
    assert page.locator("#more").is_hidden()
    # the keyboard is where the new ones begin
    assert page.evaluate("document.activeElement.closest('.card').querySelector('.id').textContent") == IDS[60]
    assert all("width=" in request.url for request in tab.asked if "/pictures/" in request.url)


def test_a_row_of_words_is_looked_at_and_not_gone_on_from(tab: Tab) -> None:
    page = tab.open()
    page.locator("#more").click()
    tab.until("document.querySelectorAll('.card').length === 70")
    page.get_by_role("button", name=f"Look {TEXT}").first.click()
    page.wait_for_selector("#closer[open]")
    assert page.get_by_role("button", name="Go on from it").count() == 0
    assert page.locator("#closer dd", has_text="103.5").count() == 1
    assert tab.questions() == []


def test_filters_beside_an_emptied_form_narrow_the_gallery(tab: Tab) -> None:
    page = tab.open()
    tab.submit("a red ball")
    page.fill("#words", "")
    page.get_by_label("2024").check()
    tab.until("document.querySelector('#title').textContent === 'Gallery'")
    tab.settle()
    assert tab.ids() == [name for at, name in enumerate(IDS) if facts(at).get("ground") == "2024"]


def test_ids_of_any_letters(tab: Tab) -> None:
    page = tab.open()
    for at, name in enumerate(ODD):
        tab.go_on(at)
        assert tab.questions()[-1]["id"] == name
        tab.until("document.querySelector('#preview').naturalWidth > 0")
        assert page.get_attribute("#preview", "alt") == f"Picture to start from: {name}"
        assert name not in tab.ids()
        page.go_back()
        tab.wait_for_first(IDS[0])
    assert page.title() == "Search with a picture and words", "no id ever becomes markup"


def test_a_picture_and_words(tab: Tab, site: str) -> None:
    page = tab.open()
    mine = picture(100)
    tab.bring(mine)
    alone = answers(site, image=mine, exclude_reference=True)
    assert tab.ids() == alone
    assert page.locator("#parts").is_hidden(), "a picture alone has no parts"
    tab.submit("the same things on a beach")
    page.wait_for_selector(".mark")
    both = hits(site, image=mine, exclude_reference=True, instruction="the same things on a beach")
    words = answers(site, instruction="the same things on a beach")
    assert tab.ids() == [hit["id"] for hit in both]
    shown = page.locator(".score").all_text_contents()
    assert [float(one) for one in shown] == pytest.approx([hit["score"] for hit in both], abs=6e-4)
    assert [float(one) for one in shown] == sorted(map(float, shown), reverse=True)
    # what only both together find is marked
    single = {*alone, *words}
    marked = page.eval_on_selector_all(".card:has(.mark) .id", "items => items.map((item) => item.textContent)")
    assert marked == [hit["id"] for hit in both if hit["id"] not in single] != []
    assert f"{len(marked)} of the 24" in page.inner_text("#status")
    page.get_by_role("tab", name="Picture alone").click()
    tab.settle()
    assert tab.ids() == alone
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Words alone").get_attribute("aria-selected") == "true"
    assert tab.ids() == words
    assert page.locator(".mark").count() == 0


def test_words_alone(tab: Tab, site: str) -> None:
    page = tab.open()
    page.get_by_role("button", name="Search", exact=True).click()
    assert page.inner_text("#alert") == "Give a picture, words, or both."
    assert page.inner_text("#words-label") == "What are you looking for?"
    assert page.locator("#strength-knob").is_hidden(), "without a picture there is no edit"
    tab.submit("a red ball")
    assert page.locator("#alert").is_hidden()
    assert tab.ids() == answers(site, instruction="a red ball")
    page.locator("#more").click()
    tab.until("document.querySelectorAll('.card').length === 48")
    assert tab.ids() == answers(site, instruction="a red ball", k=48)


def test_turns_are_gone_through_and_kept(tab: Tab) -> None:
    page = tab.open()
    tab.go_on(7)
    tab.submit("on snow")
    first = tab.ids()
    tab.go_on(2)
    assert tab.questions()[-1]["id"] == first[2], "one click goes on from an answer"
    assert page.input_value("#words") == ""
    assert page.evaluate("document.activeElement.id") == "words"
    tab.submit("bigger")
    second = tab.ids()
    assert tab.trail() == ["Gallery", "on snow", "bigger"]
    assert tab.here() == "bigger"
    page.get_by_role("button", name="on snow").click()
    tab.wait_for_words("on snow")
    assert (tab.ids(), tab.here()) == (first, "on snow")
    page.go_forward()
    tab.wait_for_words("bigger")
    assert tab.ids() == second
    assert ["edit_strength" in asked for asked in tab.questions()].count(True) == 2, "answers were kept"
    page.reload()
    tab.settle()
    assert tab.trail() == ["Gallery", "on snow", "bigger"]
    assert (tab.ids(), tab.here(), page.input_value("#words")) == (second, "bigger", "bigger")
    assert page.title().startswith("bigger"), "the browser's own list of turns tells them apart"
    page.go_back()
    tab.wait_for_words("on snow")
    assert tab.ids() == first
    # a new question takes the place of what came after
    tab.submit("darker")
    assert tab.trail() == ["Gallery", "on snow", "darker"]
    page.get_by_role("button", name="Gallery").click()
    tab.until("document.querySelector('#title').textContent === 'Gallery'")
    tab.settle()
    assert tab.ids() == IDS[:60]
    assert page.locator("#preview").is_hidden()
    page.goto("about:blank")
    tab.open()
    assert page.locator("#trail").is_hidden(), "a page that is opened anew starts anew"


def test_a_picture_of_ones_own_outlives_a_reload_or_says_so(tab: Tab) -> None:
    page = tab.open()
    tab.bring(picture(101))
    shown = tab.ids()
    page.reload()
    tab.settle()
    assert tab.ids() == shown
    # noise that no format makes small: more than a tab keeps
    noise = Image.effect_noise((1300, 1300), 90).convert("RGB")
    with page.expect_response("**/v1/search"):
        page.set_input_files("#file", {"name": "large.png", "mimeType": "image/png", "buffer": as_bytes(noise)})
    tab.settle()
    assert page.locator("#alert").is_hidden()
    page.reload()
    page.wait_for_selector("#alert:not([hidden])")
    assert "large.png was too large to be kept" in page.inner_text("#alert")
    assert tab.trail() == ["Gallery", "like this", "like this"]


DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type }));
  for (const event of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(event, { dataTransfer: carried, bubbles: true, cancelable: true }));
  }
}"""
COPY = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
}"""


def test_drop_and_paste(tab: Tab, site: str) -> None:
    page = tab.open()
    dropped = picture(102)
    with page.expect_response("**/v1/search"):
        page.evaluate(DROP, ["dropped.png", "image/png", in_base64(dropped)])
    tab.settle()
    assert page.get_attribute("#preview", "alt") == "Picture to start from: dropped.png"
    assert tab.ids() == answers(site, image=dropped, exclude_reference=True)
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pasted = picture(103)
    page.evaluate(COPY, in_base64(pasted))
    page.focus("#words")
    with page.expect_response("**/v1/search"):
        page.keyboard.press("Control+V")
    tab.settle()
    assert tab.ids() == answers(site, image=pasted, exclude_reference=True)
    assert page.evaluate("navigator.clipboard.writeText('on sand')") is None
    page.keyboard.press("Control+V")
    assert page.input_value("#words") == "on sand", "words that are pasted stay words"
    # a picture of the page itself
    dragged = tab.ids()[1]
    with page.expect_request(lambda request: (request.post_data_json or {}).get("id") == dragged):
        page.locator(".choose").nth(1).drag_to(page.locator("#reference"))
    tab.settle()
    page.evaluate(DROP, ["notes.txt", "text/plain", base64.b64encode(b"words").decode()])
    assert page.inner_text("#alert") == "notes.txt is no picture: choose a JPEG, PNG or WebP file, say."
    page.get_by_role("button", name="Take the picture out of the search").click()
    tab.settle()
    assert page.locator("#preview").is_hidden()


def test_knobs(tab: Tab, site: str) -> None:
    page = tab.open()
    tab.go_on(8)
    assert tab.questions()[-1] == {"id": IDS[8], "k": 24, "exclude_reference": True}
    tab.submit("on snow")
    page.wait_for_selector(".mark, #status:has-text('the best first')")
    assert page.locator("#strength-knob").is_visible()
    plain = tab.ids()
    with page.expect_request(lambda request: (request.post_data_json or {}).get("edit_strength") == 0.05):
        page.focus("#strength")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
    tab.until("document.querySelector('#strength-value').textContent === '0.05'")
    tab.settle()
    gentle = answers(site, id=IDS[8], instruction="on snow", edit_strength=0.05, exclude_reference=True)
    tab.wait_for_first(gentle[0])
    assert tab.ids() == gentle != plain
    assert tab.trail() == ["Gallery", "on snow"], "a knob makes no new turn"
    with page.expect_request(lambda request: (request.post_data_json or {}).get("avoid") == "green"):
        page.fill("#avoid", "green")
        page.keyboard.press("Enter")
    assert tab.trail() == ["Gallery", "on snow, without green"]
    with page.expect_request(lambda request: (request.post_data_json or {}).get("exclude_reference") is False):
        page.get_by_label("Leave out the picture itself").uncheck()
    tab.wait_for_first(IDS[8])


def test_a_cut_off_says_what_it_hides(tab: Tab, site: str) -> None:
    page = tab.open()
    tab.submit("a red ball")
    scores = [hit["score"] for hit in hits(site, instruction="a red ball")]
    least = round((scores[9] + scores[10]) / 2, 2)
    page.evaluate(SET_CUT, least)
    above = sum(score >= least for score in scores)
    assert len(tab.ids()) == above
    if above < 24:
        assert f"{24 - above} answer" in page.inner_text("#status")
        assert page.locator("#more").is_hidden(), "more answers would be below as well"
    page.evaluate(SET_CUT, 1)
    assert tab.ids() == []
    assert "24 answers are below the cut-off." in page.inner_text("#status")
    assert page.inner_text("#empty p") == f"No answer reaches 1.00; the best has {scores[0]:.3f}."
    page.get_by_role("button", name="Show them anyway").click()
    assert len(tab.ids()) == 24
    assert page.inner_text("#cut-value") == "off"


def test_why_it_matched(tab: Tab, site: str) -> None:
    page = tab.open()
    tab.go_on(9)
    tab.submit("on snow")
    hit = tab.ids()[1]
    page.get_by_role("button", name="Why answer 2,").click()
    page.wait_for_selector(".why .words")
    asked = dict(id=IDS[9], instruction="on snow", allow=[hit], k=1, explain=True)
    said = httpx.post(f"{site}/v1/search", json=asked, timeout=30).json()
    lists = page.locator(".words").all()
    for shown, words in zip(lists, (said["words"], said["hits"][0]["words"]), strict=True):
        assert shown.locator(".word").all_text_contents() == [word for word, _ in words]
    dialog = page.get_by_role("dialog")
    assert dialog.locator("h3").first.text_content() == hit
    assert "Answer 2" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    assert page.evaluate("document.activeElement.className") == "look", "the keyboard is where it was"
    page.get_by_role("button", name="Why answer 2,").click()
    with page.expect_request("**/v1/search") as asked_next:
        page.get_by_role("button", name="Go on from it").click()
    assert asked_next.value.post_data_json["id"] == hit


def test_filters(tab: Tab, site: str) -> None:
    page = tab.open()
    filters = page.locator("#filters")
    assert filters.locator("legend").all_text_contents() == ["ground", "price", "sale"], "names tell no groups"
    boxes = filters.locator("fieldset").first.locator("label").all_text_contents()
    assert boxes[0] == "snow40"
    assert sorted(boxes) == ["2024" + "10", "grass10", "sand9", "snow40"]

    def expect(count: int) -> None:
        tab.until(
            "(count) => document.querySelectorAll('.card').length === count || "
            "document.querySelector('#status').textContent.startsWith(count + ' ')",
            count,
        )

    page.get_by_label("sand").check()
    expect(9)
    page.get_by_label("2024").check()
    expect(19)
    page.get_by_label("price, at most").fill("30")
    chosen = [name for at, name in enumerate(IDS) if facts(at).get("ground") in ("sand", "2024") and at * 1.5 <= 30]
    expect(len(chosen))
    assert tab.ids() == chosen
    tab.submit("a red ball")
    wanted = {"ground": ["sand", "2024"], "price": {"<=": 30}}
    assert tab.questions()[-1]["filter"] == wanted or set(tab.questions()[-1]["filter"]["ground"]) == {"sand", "2024"}
    assert tab.ids() == answers(site, instruction="a red ball", filter=wanted)
    assert sorted(tab.ids()) == sorted(chosen)
    assert filters.locator("summary").first.text_content() == "Filters (2)"
    page.get_by_label("sale").select_option("true")
    both = [name for at, name in enumerate(IDS) if name in chosen and facts(at)["sale"]]
    expect(len(both))
    assert sorted(tab.ids()) == sorted(both)
    page.get_by_label("price, at least").fill("29.9")
    page.wait_for_selector("#empty:not([hidden])")
    assert page.inner_text("#empty p") == "Nothing in the gallery fits these filters."
    assert tab.trail() == ["Gallery", "a red ball"], "a filter makes no new turn"
    page.locator("#empty").get_by_role("button", name="Clear filters").click()
    expect(24)
    assert not page.get_by_label("sand").is_checked()


def test_a_late_answer_does_not_overwrite_a_newer_one(tab: Tab, site: str) -> None:
    page = tab.open()
    held: list[Any] = []

    def hold(route: Any) -> None:
        asked = route.request.post_data_json or {}
        held.append(route) if asked.get("instruction") == "slow" else route.continue_()

    page.route("**/v1/search", hold)
    page.fill("#words", "slow")
    page.keyboard.press("Enter")
    tab.until("document.querySelector('#answers').getAttribute('aria-busy') === 'true'")
    assert page.locator("#progress").is_visible()
    page.fill("#words", "a red ball")
    page.keyboard.press("Enter")
    tab.settle()
    wanted = answers(site, instruction="a red ball")
    assert tab.ids() == wanted
    late = {
        "object": "search",
        "role": "text",
        "hits": [{"rank": 1, "id": "late", "score": 1, "metadata": {}, "picture": None}],
    }
    for route in held:
        with contextlib.suppress(Exception):  # the page gave it up
            route.fulfill(json=late)
    page.wait_for_timeout(100)
    assert tab.ids() == wanted
    assert page.locator("#alert").is_hidden()
    assert page.locator("#progress").is_hidden()


def test_what_goes_wrong_is_said_in_a_sentence(browser: Any, site: str) -> None:
    tab = Tab(browser, site)
    page = tab.open()
    page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": b"\x89PNG but no more"})
    page.wait_for_selector("#alert:not([hidden])")
    refused = httpx.post(
        f"{site}/v1/search",
        json={"image": "data:image/png;base64," + base64.b64encode(b"\x89PNG but no more").decode()},
    )
    assert refused.status_code == 422
    assert page.inner_text("#alert") == refused.json()["error"]["message"]
    page.route("**/v1/search", lambda route: route.abort())
    page.get_by_role("button", name="Take the picture out of the search").click()
    page.fill("#words", "a red ball")
    page.keyboard.press("Enter")
    page.wait_for_selector("#alert:has-text('The server does not answer')")
    page.unroute("**/v1/search")
    page.route("**/v1/search", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    page.keyboard.press("Enter")
    page.wait_for_selector("#alert:has-text('The server answered 502.')")
    assert tab.ids() == [], "no answers to another question stay under this one"
    page.unroute("**/v1/search")
    tab.submit("a red ball")
    assert page.locator("#alert").is_hidden(), "what has passed is not held against anybody"
    tab.context.close()


def test_a_key_is_asked_for_and_kept(browser: Any, serve: Serve, tmp_path: Path) -> None:
    from mllm_embed.serve.access import Access

    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    with serve(Access.of(tmp_path / "key")) as address, Tab(browser, address) as tab:
        page = tab.page
        page.goto(f"{address}/")
        page.wait_for_selector("#key[open]")
        assert page.locator("#key-wrong").is_hidden()
        page.fill("#key-value", "wrong ключ")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-wrong:not([hidden])")
        page.fill("#key-value", KEY)
        page.keyboard.press("Enter")
        tab.settle()
        tab.until("document.querySelector('.card img').naturalWidth > 0")
        assert page.get_attribute(".card img", "src").startswith("blob:")
        tab.go_on(3)
        tab.until("document.querySelector('#preview').naturalWidth > 0")
        page.reload()
        tab.settle()
        assert page.locator("#key[open]").count() == 0
        assert all(KEY not in request.url for request in tab.asked)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_a_server_that_is_still_loading_is_waited_for(browser: Any, site: str) -> None:
    tab = Tab(browser, site)
    loading = [True]
    said = {"error": {"message": "not ready yet: loading the model"}}

    def answer(route: Any) -> None:
        waits = {"Retry-After": "1", "Content-Type": "application/json"}
        route.fulfill(status=503, headers=waits, json=said) if loading else route.continue_()

    tab.page.route("**/v1/gallery", answer)
    tab.page.goto(f"{site}/")
    tab.page.wait_for_selector("#status:has-text('loading the model')")
    assert tab.page.locator("#alert").is_hidden(), "nothing is wrong"
    assert tab.page.evaluate("document.querySelector('#words').closest('[inert]') !== null"), "typed now, it is lost"
    loading.clear()
    tab.settle()
    assert tab.page.locator("#progress").is_hidden()
    tab.submit("a red ball")
    tab.context.close()


def test_without_a_gallery_it_says_how_to_have_one(browser: Any, served: Any) -> None:
    tab = Tab(browser, served.url)
    tab.page.goto(f"{served.url}/")
    tab.page.wait_for_selector("#empty:has-text('mllm-embed serve GALLERY --model M')")
    assert tab.page.locator("#composer").is_hidden(), "a form that answers nothing"
    assert tab.page.locator("#alert").is_hidden()
    assert tab.page.locator("#progress").is_hidden()
    tab.context.close()
