"""A benchmark of plain colours, solved by an encoder whose every rank can be worked out by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import open_suite
from eval.benchmarks.folder import suite_of
from eval.reports.report import comparison_table, result_table, spread, write_result, write_sheet
from eval.scoring.evaluate import evaluate
from eval.scoring.result import Result
from eval.scoring.suite import Suite
from mllm_embed.data.folder import BenchmarkQuery, FolderBenchmark, GalleryItem
from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import PROMPT_SETS

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class ColourEncoder:
    """Pictures and words become the colours in them; a composed query counts its words `weight` times."""

    prompts = PROMPT_SETS["instructcir"]

    def __init__(self, weight: float = 2.0) -> None:
        self.weight = weight
        self.calls: list[int] = []

    def encode(self, inputs: list, *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        self.calls.append(len(inputs))
        return np.stack([self.vector(item) for item in inputs])

    def vector(self, item: object) -> np.ndarray:
        total = np.zeros(4, dtype=np.float32)
        if item.image is not None:
            with Image.open(item.image) as image:
                total[list(COLOURS.values()).index(image.convert("RGB").getpixel((0, 0)))] += 1
        for word in (item.words or "").split():
            if word in COLOURS:
                total[list(COLOURS).index(word)] += self.weight if item.image is not None else 1
        return total / np.linalg.norm(total)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    gallery = [{"id": name, "image": f"{name}.png", "caption": f"all {name}"} for name in COLOURS]
    gallery.append({"id": "twin", "image": "green.png", "caption": "all green"})
    queries = [
        {"id": "0", "image": "red.png", "instruction": "make it green", "targets": ["green"], "kind": "b"},
        {"id": "1", "image": "red.png", "instruction": "make it green", "targets": ["twin"], "kind": "b"},
        {
            "id": "2",
            "image": "blue.png",
            "instruction": "to white",
            "targets": ["blue", "white"],
            "exclude": ["red"],
            "kind": "a",
        },
        {"id": "3", "image": "white.png", "instruction": "to blue", "targets": ["red"], "exclude": ["blue"]},
    ]
    (tmp_path / "benchmark.json").write_text(json.dumps({"name": "colours", "gallery": gallery, "queries": queries}))
    return tmp_path


@pytest.fixture
def suite(folder: Path) -> Suite:
    return open_suite("folder", folder)


@pytest.fixture
def result(suite: Suite) -> Result:
    return evaluate(ColourEncoder(), suite)


def hits(result: Result, row: str, task: str = "") -> list[int | None]:
    return [result.tasks[task].rows[row][f"R@{k}"].hits for k in (1, 5, 10)]


def test_every_number_is_the_one_worked_out_by_hand(result: Result) -> None:
    # Gallery order: red green blue white twin. Composed ranks of the targets by query:
    # 0 green white-hot first -> 1; 1 its twin, tied, comes second -> 2; 2 white 1 and blue 2;
    # 3 white first, then zero scores in gallery order -> red 2.
    assert hits(result, "composed") == [2, 4, 4]
    composed = result.tasks[""].rows["composed"]
    assert composed["R@1"].queries == 4 and composed["R@1"].percent == 50
    assert composed["MRR"].percent == pytest.approx(100 * (1 + 1 / 2 + 1 + 1 / 2) / 4)
    assert composed["mAP"].percent == pytest.approx(100 * (1 + 1 / 2 + 1 + 1 / 2) / 4)
    assert composed["mAP@1"].percent == 50
    # Picture alone: red first, so green 2 and twin 5 (behind green, blue, white, all zero); blue first; red 2.
    assert hits(result, "image only") == [1, 4, 4]
    assert result.percent("MRR", "image only") == pytest.approx(100 * (1 / 2 + 1 / 5 + 1 + 1 / 2) / 4)
    # Words alone: green 1, twin 2, white 1; for "to blue" blue is excluded and the rest is zero: red 1.
    assert hits(result, "text only") == [3, 4, 4]
    # Sum: red and green equal, so red, green, twin; white and blue equal, blue is first in the gallery; red 2.
    assert hits(result, "sum") == [1, 4, 4]
    assert result.percent("MRR", "sum") == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 + 1 / 2) / 4)


def test_the_tie_rule_moves_what_hangs_on_ties_and_nothing_else(suite: Suite) -> None:
    # Queries 0 and 1 tie with a twin, query 3 has its target among zero scores: those three hang on ties.
    by_rule = {rule: evaluate(ColourEncoder(), suite, ties=rule) for rule in ("optimistic", "gallery", "pessimistic")}
    assert [hits(result, "composed")[0] for result in by_rule.values()] == [3, 2, 1]
    for rule, result in by_rule.items():
        assert result.tasks[""].rows["composed"]["R@1"].tied == 2
        assert result.tasks[""].rows["composed"]["MRR"].tied == 3
        assert ("come first" in result.protocol["ties"]) == (rule == "optimistic")
    assert "up to 3 queries a metric hang on equal scores" in result_table(by_rule["gallery"])


def test_kinds_and_captions_are_reported(result: Result) -> None:
    groups = result.tasks[""].groups
    assert list(groups) == ["a", "b"]
    assert (groups["a"]["R@1"].hits, groups["b"]["R@1"].hits, groups["b"]["R@1"].queries) == (1, 1, 2)
    # Five captions; both pictures of "all green" count for either of its two.
    captions = result.tasks["captions"].rows["text"]["R@1"]
    assert (captions.queries, captions.hits) == (5, 5)
    assert result.tasks[""].answers[0].tolist() == [1, 4, 0, 2, 3]
    assert result.tasks[""].answers[3].tolist() == [3, 0, 1, 4, -1]
    assert result.tasks[""].row_answers["image only"][2].tolist() == [2, 1, 3, 4, -1]
    assert result.tasks[""].row_values["sum"]["R@1"].tolist() == [0, 0, 1, 0]


def test_everything_is_encoded_in_one_call(suite: Suite) -> None:
    encoder = ColourEncoder()
    evaluate(encoder, suite)
    assert encoder.calls == [5 + 4 * 3 + 5]  # gallery, the composed queries and their halves, captions


def test_excluded_pictures_are_left_out_for_every_row(folder: Path) -> None:
    content = json.loads((folder / "benchmark.json").read_text())
    for query in content["queries"]:
        query.pop("exclude", None)
    (folder / "benchmark.json").write_text(json.dumps(content))
    result = evaluate(ColourEncoder(), open_suite("folder", folder))
    assert hits(result, "text only")[0] == 2
    assert "whole gallery" in result.protocol["excluded"]


def test_the_json_holds_protocol_hits_counts_and_versions(result: Result, suite: Suite, tmp_path: Path) -> None:
    write_result(result, suite, tmp_path / "out", {"model": "m", "adapter": None})
    content = json.loads((tmp_path / "out/result.json").read_text())
    assert content["model"] == "m" and content["adapter"] is None
    assert content["benchmark"]["fingerprint"] == suite.fingerprint() and content["tasks"][""]["gallery"] == 5
    figure = content["tasks"][""]["rows"]["composed"]["R@1"]
    assert (figure["hits"], figure["queries"], figure["percent"], figure["tied"]) == (2, 4, 50.0, 2)
    assert 0 <= figure["low"] < 50 < figure["high"] <= 100
    assert content["tasks"][""]["groups"]["a"]["R@1"]["hits"] == 1
    assert "2 of 4 queries" in content["protocol"]["excluded"]
    assert "gallery order" in content["protocol"]["ties"]
    assert content["protocol"]["prompts"] == PROMPT_SETS["instructcir"].to_dict()
    assert {"python", "numpy", "faiss-cpu", "torch"} <= set(content["versions"])
    assert {"embedding seconds", "ranking seconds"} <= set(content["spent"])
    assert content["spent"]["index bytes"] == 5 * 4 * 4
    one = json.loads((tmp_path / "out/per_query.json").read_text())["tasks"][""]
    assert (one["ids"], one["metrics"]["R@1"]) == (["0", "1", "2", "3"], [1, 0, 1, 0])
    assert one["answers"][3] == ["white", "red", "green", "twin"]
    assert list(one["rows"]) == ["composed", "image only", "text only", "sum"]
    assert one["rows"]["composed"] == {"metrics": one["metrics"], "ranks": [1, 2, 1, 2], "answers": one["answers"]}
    assert one["rows"]["image only"]["metrics"]["R@1"] == [0, 0, 1, 0]
    assert one["rows"]["text only"]["answers"][3] == ["red", "green", "white", "twin"]


def test_the_table_shows_rows_hits_intervals_and_kinds(result: Result) -> None:
    title, head, names, *lines = result_table(result).splitlines()
    assert title.startswith("colours") and "gallery order" in title
    assert head == "" and names == "4 queries, gallery of 5"
    # no query says which of R@1 and mAP@1 it is; mAP is not MRR, as one query has two targets
    heads = ["R@1 = mAP@1", "R@5", "R@10", "mAP", "MRR", "mAP@5", "mAP@10"]
    assert re.split(r"\s{2,}", lines[0].strip()) == heads
    rows = [line[:15].strip() for line in lines[1:9]]
    assert rows == ["composed", "95 % interval", "hits", "image only", "text only", "sum", "a (1)", "b (2)"]
    assert lines[1].split()[1:6] == ["50.00", "100.00", "100.00", "75.00", "75.00"]
    assert lines[3].split() == ["hits", "2", "4", "4"]
    assert lines[-1].startswith("embedding ") and lines[-1].endswith("index 80 bytes")


def test_several_models_are_compared_side_by_side(result: Result, suite: Suite) -> None:
    weak = evaluate(ColourEncoder(weight=0.5), suite)
    text = comparison_table({"weak": {"colours": weak}, "strong": {"colours": result, "other": result}})
    titles, head, *lines = text.splitlines()
    assert head.split()[:4] == ["R@1", "R@5", "R@10", "mAP"] and head.count("R@10") == 2
    assert titles.split() == ["colours", "other"]
    assert titles.index("other") >= len(lines[0].rstrip(" -"))
    strong = ["50.0", "100.0", "100.0", "75.0", "25.0", "75.0", "25.0", "100.0"]
    # Words that count half: only query 2 still has a target first, the picture itself.
    assert lines[0].split()[:4] == ["weak", "25.0", "100.0", "100.0"]
    assert lines[0].split()[9:] == ["-"] * 8
    assert lines[1].split() == ["strong", *strong, *strong]


def test_a_gallery_without_captions_or_kinds_has_no_such_rows(folder: Path) -> None:
    content = json.loads((folder / "benchmark.json").read_text())
    for row in (*content["gallery"], *content["queries"]):
        row.pop("caption", None)
        row.pop("kind", None)
    (folder / "benchmark.json").write_text(json.dumps(content))
    result = evaluate(ColourEncoder(), open_suite("folder", folder))
    assert list(result.tasks) == [""] and result.tasks[""].groups == {}
    assert "caption" not in result_table(result)


def test_the_sheet_frames_the_right_answer(result: Result, suite: Suite, tmp_path: Path) -> None:
    path = write_sheet(result, suite, tmp_path / "sheet.png", 1)
    with Image.open(path) as image:
        sheet = np.asarray(image)
    assert (sheet == (22, 163, 74)).all(axis=2).any()


def test_queries_for_the_sheet_are_spread_over_the_kinds() -> None:
    kinds = ["a"] * 50 + ["b"] * 3 + [None] * 20
    chosen = spread(kinds, 9)
    assert [kinds[at] for at in chosen] == ["a"] * 3 + ["b"] * 3 + [None] * 3
    assert chosen[:3] == [8, 25, 41]
    assert len(set(spread(kinds, 60))) == 60
    assert sorted(spread(kinds, 1000)) == list(range(73))


def test_benchmarks_made_in_code_are_checked_too(folder: Path) -> None:
    gallery = (GalleryItem("a", folder / "red.png"),)
    for targets, message in ((("b",), '"b" is not in the gallery'), ((), "no target")):
        query = BenchmarkQuery("q", folder / "red.png", "x", targets)
        with pytest.raises(DataError, match=message):
            suite_of(FolderBenchmark("made", gallery, (query,)))
    with pytest.raises(DataError, match="no query"):
        suite_of(FolderBenchmark("made", gallery, ()))


def test_vectors_with_nan_are_refused(suite: Suite) -> None:
    with pytest.raises(DataError, match="NaN"):
        evaluate(ColourEncoder(weight=float("nan")), suite)


def test_an_edit_of_strength_0_is_the_picture_and_of_1_the_query(suite: Suite) -> None:
    plain, none = evaluate(ColourEncoder(), suite), evaluate(ColourEncoder(), suite, edit_strength=0.0)
    assert evaluate(ColourEncoder(), suite, edit_strength=1.0).tasks[""].rows == plain.tasks[""].rows
    assert none.tasks[""].rows["composed"] == plain.tasks[""].rows["image only"]
