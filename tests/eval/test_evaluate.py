"""A benchmark of plain colours, solved by an encoder whose every rank can be worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.evaluate import Result, evaluate
from eval.report import comparison_table, spread, table, write_result, write_sheet
from mllm_embed.errors import DataError
from mllm_embed.folder import Benchmark, BenchmarkQuery, GalleryItem, open_benchmark
from mllm_embed.prompts import PROMPT_SETS

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
def result(folder: Path) -> Result:
    return evaluate(ColourEncoder(), open_benchmark(folder))


def test_every_number_is_the_one_worked_out_by_hand(result: Result) -> None:
    # Gallery order: red green blue white twin. Composed ranks of the targets by query:
    # 0 green white-hot first -> 1; 1 its twin, tied, comes second -> 2; 2 white 1 and blue 2;
    # 3 white first, then zero scores in gallery order -> red 2.
    composed = result.rows["composed"]
    assert (composed.queries, composed.hits) == (4, {1: 2, 5: 4, 10: 4})
    assert composed.mrr == pytest.approx((1 + 1 / 2 + 1 + 1 / 2) / 4)
    assert composed.map == pytest.approx((1 + 1 / 2 + 1 + 1 / 2) / 4)
    assert composed.map_at[1] == 0.5
    assert composed.percent(1) == 50
    # Picture alone: red first, so green 2 and twin 5 (behind green, blue, white, all zero); blue first; red 2.
    assert result.rows["image only"].hits == {1: 1, 5: 4, 10: 4}
    assert result.rows["image only"].mrr == pytest.approx((1 / 2 + 1 / 5 + 1 + 1 / 2) / 4)
    # Words alone: green 1, twin 2, white 1; for "to blue" blue is excluded and the rest is zero: red 1.
    assert result.rows["text only"].hits == {1: 3, 5: 4, 10: 4}
    # Sum: red and green equal, so red, green, twin; white and blue equal, blue is first in the gallery; red 2.
    assert result.rows["sum"].hits == {1: 1, 5: 4, 10: 4}
    assert result.rows["sum"].mrr == pytest.approx((1 / 2 + 1 / 3 + 1 + 1 / 2) / 4)


def test_kinds_and_captions_are_reported(result: Result) -> None:
    assert list(result.kinds) == ["a", "b"]
    assert (result.kinds["a"].hits[1], result.kinds["b"].hits[1], result.kinds["b"].queries) == (1, 1, 2)
    # Five captions; both pictures of "all green" count for either of its two.
    assert result.caption_to_image is not None
    assert (result.caption_to_image.queries, result.caption_to_image.hits[1]) == (5, 5)
    assert result.answers[0].tolist() == [1, 4, 0, 2, 3]
    assert result.answers[3].tolist() == [3, 0, 1, 4, -1]


def test_everything_is_encoded_in_one_call(folder: Path) -> None:
    encoder = ColourEncoder()
    evaluate(encoder, open_benchmark(folder))
    assert encoder.calls == [5 + 4 + 3 * 4]


def test_excluded_pictures_are_left_out_for_every_row(folder: Path) -> None:
    content = json.loads((folder / "benchmark.json").read_text())
    for query in content["queries"]:
        query.pop("exclude", None)
    (folder / "benchmark.json").write_text(json.dumps(content))
    result = evaluate(ColourEncoder(), open_benchmark(folder))
    assert result.rows["text only"].hits[1] == 2
    assert "whole gallery" in result.protocol["excluded"]


def test_the_json_holds_protocol_hits_counts_and_versions(result: Result, tmp_path: Path) -> None:
    path = write_result(result, tmp_path / "out", {"model": "m", "adapter": None})
    content = json.loads(path.read_text())
    assert content["model"] == "m" and content["adapter"] is None
    assert content["benchmark"] == {"name": "colours", "fingerprint": result.fingerprint, "gallery": 5}
    row = content["rows"]["composed"]
    assert (row["hits"]["1"], row["queries"], row["percent"]["1"]) == (2, 4, 50.0)
    assert content["kinds"]["a"]["hits"]["1"] == 1
    assert content["caption_to_image"]["hits"]["1"] == 5
    assert "2 of 4 queries" in content["protocol"]["excluded"]
    assert "gallery order" in content["protocol"]["ties"]
    assert content["protocol"]["prompts"] == PROMPT_SETS["instructcir"].to_dict()
    assert {"python", "numpy", "faiss-cpu", "torch"} <= set(content["versions"])
    assert set(content["seconds"]) == {"embedding", "ranking"}
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["result.json"]


def test_the_table_is_aligned_and_in_order(result: Result) -> None:
    title, head, *lines = table(result).splitlines()
    assert title == "colours: 4 queries, gallery of 5"
    names = ["composed", "image only", "text only", "sum", "caption to image", "composed, by kind", "  a", "  b"]
    assert [line[:18].rstrip() for line in lines] == names
    assert lines[0].split() == ["composed", "50.0", "100.0", "100.0", "75.0", "75.0", "2", "4"]
    assert {len(line) for line in [head, *lines] if line != "composed, by kind"} == {len(head)}


def test_several_models_are_compared_side_by_side(result: Result, folder: Path) -> None:
    weak = evaluate(ColourEncoder(weight=0.5), open_benchmark(folder))
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
    result = evaluate(ColourEncoder(), open_benchmark(folder))
    assert result.caption_to_image is None and result.kinds == {}
    assert result.to_dict()["caption_to_image"] is None
    assert "caption" not in table(result) and "kind" not in table(result)


def test_the_sheet_frames_the_right_answer(result: Result, folder: Path, tmp_path: Path) -> None:
    path = write_sheet(result, open_benchmark(folder), tmp_path / "sheet.png", 1)
    with Image.open(path) as image:
        sheet = np.asarray(image)
    assert (sheet == (22, 163, 74)).all(axis=2).any()


def test_queries_for_the_sheet_are_spread_over_the_kinds() -> None:
    kinds = ["a"] * 50 + ["b"] * 3 + [None] * 20
    queries = [BenchmarkQuery(str(at), Path("x"), "y", ("z",), kind=kind) for at, kind in enumerate(kinds)]
    chosen = spread(queries, 9)
    assert [kinds[at] for at in chosen] == ["a"] * 3 + ["b"] * 3 + [None] * 3
    assert chosen[:3] == [8, 25, 41]
    assert len(set(spread(queries, 60))) == 60
    assert sorted(spread(queries, 1000)) == list(range(73))


def test_benchmarks_made_in_code_are_checked_too(folder: Path) -> None:
    gallery = (GalleryItem("a", folder / "red.png"),)
    for targets, message in ((("b",), '"b" is not in the gallery'), ((), "no target")):
        query = BenchmarkQuery("q", folder / "red.png", "x", targets)
        with pytest.raises(DataError, match=message):
            evaluate(ColourEncoder(), Benchmark("made", gallery, (query,)))
    with pytest.raises(DataError, match="no queries"):
        evaluate(ColourEncoder(), Benchmark("made", gallery, ()))


def test_vectors_with_nan_are_refused(folder: Path) -> None:
    encoder = ColourEncoder(weight=float("nan"))
    with pytest.raises(DataError, match="NaN"):
        evaluate(encoder, open_benchmark(folder))
