"""The page of a result as a file: what it holds, and what it must never hold."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.reports.pages import suite_content, thumbnails
from eval.reports.pages.html_page import read_page, write_page
from eval.reports.pages.result_page import write_report
from eval.reports.report import result_table
from eval.scoring.metrics import recall
from eval.scoring.rankings import score_rankings
from eval.scoring.result import Result
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite, Task, View
from mllm_embed.errors import DataError
from mllm_embed.types import Document, Query

from .conftest import GALLERY, HOSTILE, QUERIES, noise_picture

SETTINGS = {"model": "<b>model</b>", "adapter": None}


@pytest.fixture(scope="module")
def page(suite: Suite, result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(result, suite, tmp_path_factory.mktemp("page"), SETTINGS, progress=False)


@pytest.fixture(scope="module")
def data(page: Path) -> dict[str, Any]:
    return read_page(page)[0]


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of those that hold text alone."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.found[-1][0] if self.found else "", []).append(data)


def test_it_refers_to_nothing_outside(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(https?|wss?|ftp|file)?://", text), "not even in what was asked: it is written otherwise"
    elements = Elements(text)
    for tag, attributes in elements.found:
        for name in ("src", "href", "action", "srcset", "data", "poster", "ping", "background"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")] and "style" not in attributes
    assert not re.search(r"@import|url\(", "".join(elements.texts["style"]))
    assert {tag for tag, _ in elements.found}.isdisjoint({"iframe", "object", "embed", "base", "img", "form"})


def test_its_policy_lets_run_its_own_script_alone(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    (policy,) = (a["content"] for _, a in Elements(text).found if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for name, pattern in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        (own,) = re.findall(pattern, text, flags=re.DOTALL)
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'"
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_the_same_result_gives_the_same_bytes(page: Path, suite: Suite, result: Result, tmp_path: Path) -> None:
    again = replace(result, spent={"ranking seconds": 77.0})
    assert write_report(again, suite, tmp_path, SETTINGS, progress=False).read_bytes() == page.read_bytes()


def test_everything_is_there(data: dict[str, Any], suite: Suite, result: Result) -> None:
    queries, entries = data["queries"], data["entries"]
    assert queries["ids"] == [name for task in suite.tasks for name in task.query_ids]
    assert queries["words"][: len(HOSTILE)] == [[words] for words in HOSTILE]
    assert queries["words"][7] == ["one", "other"] and len(queries["pictures"][1]) == 2
    assert queries["names"][1:3] == [["", ""], ["broken"]]
    rows = {row["name"]: row for row in data["rows"]}
    parts = {name: (row["part"], row["shown"]) for name, row in rows.items()}
    halves = {"image only": ("half", True), "text only": ("half", True)}
    whole = {"composed": ("asked", True), "image": ("asked", True)}
    assert parts == {**whole, **halves, "sum": ("other", False)}
    task, own = suite.tasks[0], result.tasks[""]
    for name in ("composed", "image only", "text only", "sum"):
        found = [[entries["ids"][entry] for entry in row] for row in rows[name]["answers"][:QUERIES]]
        assert found == [[task.gallery_ids[at] for at in row if at >= 0] for row in own.row_answers[name].tolist()]
        values = dict(rows[name]["values"])
        assert values["MRR"][:QUERIES] == own.row_values[name]["MRR"].tolist()
        known = [at for at in range(QUERIES) if task.views[0].targets[at]]
        assert [round(1 / rows[name]["ranks"][at], 9) for at in known] == [round(values["MRR"][at], 9) for at in known]
    assert rows["composed"]["ranks"][9] is None and queries["targets"][9] == []
    assert [entries["ids"][entry] for entry in queries["targets"][4]] == [task.gallery_ids[12], task.gallery_ids[3]]
    assert queries["sizes"] == [GALLERY - 1] * QUERIES + [8] * 4 + [6] * 3
    facets = {facet["name"]: facet for facet in data["facets"]}
    assert list(facets) == ["task", "kind", "found at R@1 by"]
    kinds = [[facets["kind"]["values"][number] for number in own] for own in facets["kind"]["of"][:3]]
    assert kinds == [["colour"], ["<b>size</b>", "colour"], []]
    first = next(iter(result.tasks[""].composition.values())).labels.tolist()
    shown = [facets["found at R@1 by"]["values"][own[0]] for own in facets["found at R@1 by"]["of"][:QUERIES]]
    assert [text.split(",")[0].split(":")[0] for text in shown] == first
    assert ["<i>rule</i>", HOSTILE[0]] in data["protocol"]


def test_its_figures_are_those_of_the_table(data: dict[str, Any], result: Result) -> None:
    lines = result_table(result).splitlines()
    printed = {tuple(re.split(r"\s{2,}", line.strip())) for line in lines}
    for block in data["blocks"]:
        for row in block.get("rows", []):
            assert tuple(filter(None, row)) in printed, row
    first = next(block for block in data["blocks"] if "rows" in block)
    names = [row[0] for row in first["rows"]]
    assert names[:5] == ["composed", "95 % interval", "hits", "<b>size</b> (7)", "colour (14)"]
    assert [names[at] for at in first["minor"]] == names[1:5]


def test_each_picture_is_there_once_and_bad_ones_are_told(page: Path, data: dict[str, Any], suite: Suite) -> None:
    _, files = read_page(page)
    assert len(files) == len(set(files))
    for file in files:
        with Image.open(io.BytesIO(base64.b64decode(file))) as small:
            assert max(small.size) <= thumbnails.SIDE and small.format == "WEBP"
    entries = data["entries"]
    by_id = dict(zip(entries["ids"], entries["pictures"], strict=True))
    names = suite.tasks[0].gallery_ids
    assert by_id[names[3]] == by_id[names[4]] == [thumbnails.UNREADABLE] and len(by_id[names[5]]) == 2
    assert data["queries"]["pictures"][2] == [thumbnails.UNREADABLE]
    assert data["notes"][-1].endswith("2 cannot be read.")
    texts = dict(zip(entries["ids"], entries["texts"], strict=True))
    assert texts["t3"] == f"text 3 {HOSTILE[0]}" and by_id["t3"] == []


def _many(count: int) -> tuple[Suite, Result]:
    """Return a benchmark of pictures that no format makes small, in which each query asks for the next one."""
    pictures = [noise_picture(at) for at in range(count)]
    task = Task(
        name="",
        gallery_ids=list(map(str, range(count))),
        gallery=[Document(image=one) for one in pictures],
        query_ids=list(map(str, range(count))),
        queries=[(Query(image=pictures[0], instruction="next"),) for _ in range(count)],
        views=(View(recall((1,)), [[at] for at in range(count)]),),
    )
    suite = Suite("many", "", {}, (task,))
    vectors = np.eye(count, dtype=np.float32)
    return suite, score(suite, {"": Vectors(vectors, {"composed": vectors})})


def test_thumbnails_take_no_more_room_than_they_may(tmp_path: Path) -> None:
    suite, result = _many(12)
    whole, _ = read_page(write_report(result, suite, tmp_path, SETTINGS, progress=False))
    size = whole["thumbnails"][0]
    room = 5.5 * size / thumbnails.UNIT
    data, files = read_page(write_report(result, suite, tmp_path, SETTINGS, room, progress=False))
    assert len(files) in (4, 5) and sum(map(len, files)) <= room * thumbnails.UNIT
    places = [place for (place,) in data["entries"]["pictures"]]
    assert places.count(thumbnails.LEFT_OUT) == 12 - len(files)
    assert data["queries"]["pictures"][0][0] >= 0, "the reference comes first"
    assert f"{12 - len(files)} are left out" in data["notes"][-1] and "--thumbnails" in data["notes"][-1]
    data, files = read_page(write_report(result, suite, tmp_path, SETTINGS, 0, progress=False))
    assert files == [] and "Thumbnails: 0 of 12 pictures" in data["notes"][-1]


def test_too_many_queries_are_thinned_out_and_that_is_said(
    suite: Suite, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite_content, "MOST_QUERIES", 10)
    data, _ = read_page(write_report(result, suite, tmp_path, SETTINGS, 0, progress=False))
    assert len(data["queries"]["ids"]) == 10 and data["queries"]["tasks"] == [""] * 8 + ["image-to-text", "few"]
    assert any("shows 10 of 27 queries, evenly spread" in note for note in data["notes"])


def test_a_given_list_that_lacks_the_target_says_so(suite: Suite, tmp_path: Path) -> None:
    task = replace(suite.tasks[0], views=(View(recall((1,)), [[0]] * QUERIES),))
    small = Suite("lists", "", {}, (task,))
    ids = task.gallery_ids
    rankings = {name: [ids[1], ids[0]] if at else [ids[1], ids[2]] for at, name in enumerate(task.query_ids)}
    result = score_rankings(small, rankings)
    data, _ = read_page(write_report(result, small, tmp_path, SETTINGS, 0, progress=False))
    assert data["rows"][0]["ranks"][:3] == [0, 2, 2]
    assert [row["name"] for row in data["rows"]] == ["composed"]


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("<html></html>", "is no page of this version"),
        ('<script type="application/json" id="data">{"version": 0}</script>', "of version 0, not"),
        ('<script type="application/json" id="data">[1]</script>', "is no page of this version"),
    ],
)
def test_what_is_no_page_is_refused(tmp_path: Path, content: str, wrong: str) -> None:
    (tmp_path / "report.html").write_text(content)
    with pytest.raises(DataError, match=wrong):
        read_page(tmp_path / "report.html")
    with pytest.raises(DataError, match="cannot be read"):
        read_page(tmp_path / "none.html")


def test_half_a_character_is_written_and_read(tmp_path: Path) -> None:
    odd = {"name": "caf\udce9 \ud83e", "thumbnails": [], "list": ["</script", "a://b", "&amp;"]}
    found, files = read_page(write_page(tmp_path / "page.html", odd, ["AAAA", "BB"]))
    assert (found["name"], found["list"], files) == (odd["name"], odd["list"], ["AAAA", "BB"])


def test_the_seed_of_other_vectors_gives_another_page(
    page: Path, suite: Suite, scored: Callable[[int], Result], tmp_path: Path
) -> None:
    assert write_report(scored(1), suite, tmp_path, SETTINGS, progress=False).read_bytes() != page.read_bytes()
