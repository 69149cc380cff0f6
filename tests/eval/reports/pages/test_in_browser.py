"""The pages in a real browser: nothing goes wrong in them, nobody is asked, and filters find what they should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browsing.looks import FAINT, NAMELESS, SMALL
from browsing.tab import Tab
from eval.reports.pages.comparison_page import write_comparison
from eval.reports.pages.result_page import write_report
from eval.reports.report import write_result
from eval.reports.seeds import read_runs
from eval.scoring.result import Result
from eval.scoring.score import Vectors
from eval.scoring.suite import Suite, View
from eval.scoring.unscored import unscored

from .conftest import GALLERY, HOSTILE, QUERIES

ALL = QUERIES + 4 + 3
SETTINGS = {"model": "m", "adapter": None}


@pytest.fixture(scope="module")
def written(
    suite: Suite, scored: Callable[[int], Result], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The page of a result, and that of a comparison."""
    root = tmp_path_factory.mktemp("pages")
    folders = [root / "one", root / "other"]
    for seed, folder in enumerate(folders):
        write_result(scored(seed), suite, folder, SETTINGS)
        write_report(scored(seed), suite, folder, SETTINGS, progress=False)
    return folders[0] / "report.html", write_comparison(read_runs(folders), root / "both", progress=False)


class Report:
    """A report page in a tab."""

    def __init__(self, tab: Tab, path: Path) -> None:
        self.tab, self.page, self.address = tab, tab.page, path.as_uri()

    def open(self, state: str = "") -> Any:
        self.page.goto(f"{self.address}#{state}")
        self.page.evaluate("document.activeElement.blur()")
        self.page.wait_for_selector("#status:not(:empty)")
        return self.page

    def visit(self, state: str) -> None:
        """Go to another state of the page, as a link that somebody has sent does."""
        self.page.evaluate("(state) => { location.hash = state; }", state)
        self.tab.until("(state) => decodeURIComponent(location.hash.slice(1)) === state", state)
        self.page.wait_for_timeout(50)

    def ids(self) -> list[str]:
        """Return the ids of all queries in the list."""
        self.page.evaluate("() => { const more = document.querySelector('#more'); while (!more.hidden) more.click(); }")
        found: list[str] = self.page.locator(".query .id").all_text_contents()
        return found

    def rows_of_first(self) -> list[str]:
        """Return the names of the rows that the first query shows."""
        rows = self.page.locator(".query").first.locator(".rows h4")
        names: list[str] = rows.evaluate_all("(all) => all.map((h4) => h4.firstChild.data)")
        return names

    def status(self) -> str:
        return str(self.page.text_content("#status"))


@pytest.fixture(scope="module")
def shared_tab(browser: Any) -> Iterator[Tab]:
    with Tab(browser, "") as made:
        yield made


@pytest.fixture
def tab(shared_tab: Tab) -> Iterator[Tab]:
    """A tab in which nothing goes wrong, and which asks nobody."""
    shared_tab.page.set_viewport_size({"width": 1280, "height": 900})
    shared_tab.page.emulate_media(media="screen", color_scheme="light")
    yield shared_tab
    assert shared_tab.faults == []
    assert shared_tab.hosts() == set()


@pytest.fixture
def report(tab: Tab, written: tuple[Path, Path]) -> Report:
    return Report(tab, written[0])


@pytest.fixture
def comparison(tab: Tab, written: tuple[Path, Path]) -> Report:
    return Report(tab, written[1])


def test_hostile_words_are_words(report: Report, suite: Suite) -> None:
    page = report.open()
    assert page.title() == "hostile" and report.status() == f"{ALL} queries."
    shown = page.locator(".query h3").all_text_contents()
    assert shown[: len(HOSTILE)] == HOSTILE
    assert report.ids() == [name for task in suite.tasks for name in task.query_ids]
    addresses = page.evaluate("[...document.images].map((one) => one.src.split(',')[0])")
    assert set(addresses) == {"data:image/webp;base64"}
    page.evaluate("Promise.all([...document.images].map((one) => one.decode()))")
    # a picture that cannot be read is told by its name, and so is a text
    assert page.locator(".query").nth(2).locator(".no-picture").first.get_attribute("title") == "broken cannot be read"
    texts = page.locator(".query").nth(QUERIES).locator(".rows .texts .text").all_text_contents()
    assert len(texts) == 8 and all(HOSTILE[0] in text for text in texts)
    assert page.locator(".query").nth(1).locator(".pair .side").first.locator("img").count() == 2
    assert page.locator(".query").nth(9).locator(".target").count() == 0


def test_targets_are_framed_where_they_stand(report: Report, result: Result, suite: Suite) -> None:
    page = report.open()
    report.ids()
    task, own = suite.tasks[0], result.tasks[""]
    for at in (0, 1, 4, 9, 13):
        rows = page.locator(".query").nth(at).locator(".rows .row")
        assert rows.count() == 3
        for number, name in enumerate(("composed", "image only", "text only")):
            answers = [place for place in own.row_answers[name][at].tolist() if place >= 0]
            wanted = [place in task.views[0].targets[at] for place in answers]
            marks = (
                rows.nth(number)
                .locator(".answers li")
                .evaluate_all("(all) => all.map((li) => li.className === 'target')")
            )
            assert marks == wanted
            rank = int(own.row_ranks[name][at])
            said = f"target at {rank} of {GALLERY - 1}" if task.views[0].targets[at] else None
            assert (rows.nth(number).locator(".rank").text_content() if said else None) == said
    label = page.locator(".query").nth(4).locator(".target .tile").first.get_attribute("aria-label")
    assert label == f"Target, a target: {task.gallery_ids[12]}"


def test_filters_find_what_they_should(report: Report, result: Result, suite: Suite) -> None:
    page = report.open()
    task, own = suite.tasks[0], result.tasks[""]
    ids = task.query_ids
    values = {name: own.row_values[name]["R@1"] for name in own.row_values}
    page.fill("#words", "SNOW  q1")
    report.tab.until("document.querySelector('#status').textContent.includes(' of ')")
    assert report.ids() == [f"q{at}" for at in range(11, 21, 2)]
    page.click("text=Clear filters >> visible=true")
    assert report.status() == f"{ALL} queries."
    ranks = own.row_ranks["composed"]
    report.visit("rank=0_2_5")
    few = zip(suite.tasks[2].query_ids, result.tasks["few"].row_ranks["composed"], strict=True)
    assert report.ids() == [
        *(name for at, name in enumerate(ids) if 2 <= ranks[at] <= 5),
        *(name for name, rank in few if 2 <= rank <= 5),
    ]
    gaps = values["composed"] - np.maximum(values["image only"], values["text only"])
    for state, wanted in (("gap=0_100_", 1), ("gap=0__-100", -1), ("gap=0_0_0", 0)):
        report.visit(f"facet0=0&{state}")
        assert report.ids() == [name for name, gap in zip(ids, gaps, strict=True) if gap == wanted], state
    report.visit("rank=length_1_2&gap=length_1_2")  # no row, though an array has it
    assert report.status() == f"{ALL} queries." and report.ids()
    report.visit("")
    page.get_by_label("<b>size</b>").check()
    assert report.ids() == [name for at, name in enumerate(ids) if at % 3 == 1]
    figure = 100 * values["composed"][1::3].mean()
    assert page.locator("#worths dd").first.inner_text().split()[0] == f"{figure:.2f}"
    page.get_by_label("image-to-text").check()
    assert report.status() == f"0 of {ALL} queries." and page.is_visible("#empty")
    page.click("#clear-all")
    assert report.status() == f"{ALL} queries."


def test_orders(report: Report, result: Result, suite: Suite) -> None:
    page = report.open("facet0=0")
    ids, ranks = suite.tasks[0].query_ids, result.tasks[""].row_ranks["composed"]
    known = [at for at in range(QUERIES) if ranks[at]]
    unknown = [ids[at] for at in range(QUERIES) if not ranks[at]]
    for sort, key in (("rank", lambda at: ranks[at]), ("-rank", lambda at: -ranks[at])):
        page.select_option("#sort", sort)
        assert report.ids() == [*(ids[at] for at in sorted(known, key=key)), *unknown]
    page.select_option("#measure", "MRR")
    page.select_option("#sort", "gap")
    values = {name: own["MRR"] for name, own in result.tasks[""].row_values.items()}
    gaps = values["composed"] - np.maximum(values["image only"], values["text only"])
    wanted = [ids[at] for at in np.argsort(gaps, kind="stable")]
    assert report.ids() == wanted
    # a link leads to the same view
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert report.ids() == wanted


def test_rows_can_be_hidden_and_pictures_looked_at(report: Report, result: Result, suite: Suite) -> None:
    page = report.open()
    page.get_by_role("button", name="sum", exact=True).click()
    page.get_by_role("button", name="text only", exact=True).click()
    assert page.locator(".query").first.locator(".rows h4").evaluate_all(
        "(all) => all.map((h4) => h4.firstChild.data)"
    ) == ["composed", "image only", "sum"]
    page.locator(".query").first.locator(".rows .tile").first.click()
    page.wait_for_selector("#closer[open]")
    at = int(result.tasks[""].row_answers["composed"][0][0])
    assert page.text_content("#closer-title") == suite.tasks[0].gallery_ids[at]
    count = (result.tasks[""].row_answers["composed"] == at).any(axis=1).sum()
    assert f"{count} quer" in page.inner_text("#closer section")
    page.click("text=Show these queries")
    found = [
        (result.tasks[""].row_answers[row] == at).any(axis=1) for row in ("composed", "image only", "text only", "sum")
    ]
    assert len(report.ids()) == sum(map(bool, found[0] | found[1] | found[2] | found[3]))
    page.click(".chip:visible")
    assert report.status() == f"{ALL} queries."


def test_wins_losses_and_ties(comparison: Report, scored: Callable[[int], Result], suite: Suite) -> None:
    page = comparison.open("facet0=0")
    first, second = (scored(seed).tasks[""].row_values["composed"]["R@1"] for seed in (0, 1))
    ids = suite.tasks[0].query_ids
    for label, wanted in (
        ("other is better", second > first),
        ("one is better", second < first),
        ("both alike", second == first),
    ):
        page.get_by_label(label).check()
        assert comparison.ids() == [name for name, fits in zip(ids, wanted, strict=True) if fits], label
        page.get_by_label(label).uncheck()
    counts = [int((second > first).sum()), int((second < first).sum()), int((second == first).sum())]
    said = f"other wins {counts[0]}, one wins {counts[1]}, {counts[2]} alike"
    assert page.locator("#worths p").inner_text() == said
    assert page.locator(".query").first.locator(".rows h4").evaluate_all(
        "(all) => all.map((h4) => h4.firstChild.data)"
    ) == ["one: composed", "other: composed"]


def test_less_may_be_better(comparison: Report, scored: Callable[[int], Result]) -> None:
    page = comparison.open("facet0=2&measure=R@1")
    measures = page.locator("#measure option").all_text_contents()
    assert "missed@1" in measures and "all missed" not in measures
    wins = page.inner_text("#worths p")
    page.select_option("#measure", "missed@1")
    assert page.inner_text("#worths p") == wins
    missed = 100 - 100 * scored(0).tasks["few"].row_values["composed"]["R@1"].mean()
    assert page.locator("#worths dd").first.inner_text().split()[0] == f"{missed:.2f}"


def test_everything_by_keyboard(report: Report) -> None:
    page = report.open()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"
    seen = ""
    for _ in range(40):
        page.keyboard.press("Tab")
        seen = page.evaluate("document.activeElement.className")
        if seen == "tile":
            break
    assert seen == "tile"
    where = """(() => { const tile = document.activeElement, list = tile.closest("ol");
      const lists = [...document.querySelectorAll(".answers")];
      return [lists.indexOf(list), [...list.children].indexOf(tile.parentElement)]; })()"""
    start = page.evaluate(where)
    assert start[1] == 0
    for key, row, place in (
        ("ArrowRight", 0, 1),
        ("ArrowRight", 0, 2),
        ("ArrowDown", 1, 2),
        ("End", 1, 9),
        ("Home", 1, 0),
        ("ArrowUp", 0, 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate(where) == [start[0] + row, place], key
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("#closer[open]")
    page.keyboard.press("Escape")
    assert page.evaluate(where) == start, "the focus comes back"
    stops = page.evaluate("[...document.querySelectorAll('#list button')].filter((one) => one.tabIndex === 0).length")
    assert stops == 1


@pytest.mark.parametrize(("which", "width", "scheme"), [(0, 1280, "light"), (1, 360, "dark")])
def test_it_can_be_read_and_touched(tab: Tab, written: tuple[Path, Path], which: int, width: int, scheme: Any) -> None:
    tab.page.set_viewport_size({"width": width, "height": 740})
    tab.page.emulate_media(color_scheme=scheme)
    page = Report(tab, written[which]).open()
    for summary in page.locator("summary:visible").all():
        if not summary.evaluate("(one) => one.parentElement.open"):
            summary.click()
    page.locator(".query").nth(5).scroll_into_view_if_needed()
    for look in (NAMELESS, FAINT, SMALL):
        assert page.evaluate(look) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "scrolls sideways"


def test_on_paper(report: Report) -> None:
    page = report.open()
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.is_visible("#filters") and not page.is_visible("#more") and page.is_visible("#figures table")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(FAINT) == []
    assert page.inner_text("#printed") == f"On paper are the first {page.locator('.query').count()} of them."


def test_where_labels_are_hidden(tab: Tab, suite: Suite, tmp_path: Path) -> None:
    """Answers can be looked at where only a server knows what is right."""
    task = suite.tasks[0]
    hidden = replace(task, views=(View((), [()] * QUERIES, exclude=task.views[0].exclude),), by_group=())
    gallery = np.random.default_rng(0).standard_normal((GALLERY, 8)).astype(np.float32)
    rows = {name: gallery[np.arange(QUERIES) % GALLERY] + at for at, name in enumerate(("composed", "image only"))}
    closed = Suite("closed", "test", {}, (hidden,))
    result = unscored(closed, {"": Vectors(gallery, rows)})
    report = Report(tab, write_report(result, closed, tmp_path, SETTINGS, progress=False))
    page = report.open()
    assert report.ids() == list(task.query_ids)
    rows_shown = page.locator(".query").first.locator(".rows .row")
    assert rows_shown.count() == 2 and rows_shown.first.locator(".tile").count() == 10
    assert page.locator(".target").count() == 0 and not page.is_visible("#slice")
    assert page.locator("#sort option").all_text_contents() == ["the benchmark's order", "words, A to Z"]
