"""CIRCO, held against the server's src/evaluation.py, restated here without our code, and its example submission."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks import open_suite
from eval.scoring.evaluate import evaluate
from eval.scoring.rankings import score_rankings
from eval.scoring.score import Vectors, score
from mllm_embed.errors import DataError

KS = (5, 10, 25, 50)
WORDS = ("reference_img_id", "target_img_id", "gt_img_ids")
# The server's code on submission_examples/submission_val.json of CIRCO 267b5c9, as it prints them.
GOLDEN = {
    "mAP@5": 0.4861111111111111,
    "mAP@10": 0.5177669552669554,
    "mAP@25": 0.5400354476441432,
    "mAP@50": 0.6020391550163254,
    "R@5": 0.9090909090909091,
    "R@10": 0.9090909090909091,
    "R@25": 1.3636363636363635,
    "R@50": 3.6363636363636362,
}
GOLDEN_ASPECTS = {
    "direct_addressing": 0.9197012138188607,
    "comparative_statement": 1.05,
    "statement_with_conjunction": 0.6183459156020131,
    "viewpoint": 0.6172839506172839,
    "spatial_relations_background": 0.18075396825396825,
    "addition": 0.08705357142857142,
    "compare_change": 0.02422480620155039,
    "cardinality": 0.0,
    "negation": 0.0,
}


@pytest.fixture
def completed(real: Callable, tmp_path: Path, write: Callable) -> Path:
    """CIRCO's own annotations beside a list of COCO's pictures that holds every id they name, and 3,000 more."""
    source, seen = real("circo"), set(range(700_000, 703_000))
    for split in ("val", "test"):
        for row in json.loads((source / f"annotations/{split}.json").read_text(encoding="utf-8")):
            seen |= {number for key in WORDS if key in row for number in np.ravel(row[key]).tolist()}
        ranked = json.loads((source / f"submission_examples/submission_{split}.json").read_text())
        seen |= {number for numbers in ranked.values() for number in numbers}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/{split}.json").symlink_to(source / f"annotations/{split}.json")
    order = np.random.default_rng(0).permutation(sorted(seen)).tolist()
    images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in order]
    write(tmp_path / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": images})
    return tmp_path


def official(rows: list[dict], ranked: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """The server's code in short: AP@K over min(ground truths, K), recall of the one target, mAP@10 by aspect."""
    precisions, hits = {k: [] for k in KS}, {k: [] for k in KS}
    for row, found in zip(rows, ranked, strict=True):
        right = np.isin(found[:50], row["gt_img_ids"])
        precision = np.cumsum(right) * right / np.arange(1, 51)
        for k in KS:
            precisions[k].append(float(np.sum(precision[:k]) / min(len(row["gt_img_ids"]), k)))
            hits[k].append(float(row["target_img_id"] in found[:k]))
    aspects: dict[str, list[float]] = {}
    for row, value in zip(rows, precisions[10], strict=True):
        for aspect in row["semantic_aspects"]:
            aspects.setdefault(aspect, []).append(value)
    figures = {f"mAP@{k}": float(np.mean(precisions[k])) * 100 for k in KS}
    figures |= {f"R@{k}": float(np.mean(hits[k])) * 100 for k in KS}
    return figures, {aspect: float(np.mean(values)) * 100 for aspect, values in aspects.items()}


@pytest.mark.slow
def test_every_figure_equals_the_official_rules_in_every_digit(completed: Path, draw: Callable) -> None:
    rows = json.loads((completed / "annotations/val.json").read_text(encoding="utf-8"))
    listing = json.loads((completed / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json").read_text())
    ids = np.array([image["id"] for image in listing["images"]])
    place = {number: at for at, number in enumerate(ids.tolist())}
    near = [[place[number] for number in (row["target_img_id"], *row["gt_img_ids"][:4])] for row in rows]
    gallery, queries = draw(len(ids), near, noise=0.6)
    distances = 1 - queries.astype(np.float64) @ gallery.astype(np.float64).T
    figures, aspects = official(rows, ids[np.argsort(distances, axis=1, kind="stable")[:, :50]])

    suite = open_suite("circo", completed, pictures=False)
    result = score(suite, {"": Vectors(gallery, {"composed": queries})}).tasks[""]
    assert (result.queries, result.gallery) == (220, len(ids))
    assert list(suite.tasks[0].gallery_ids) == [str(number) for number in ids]
    assert {name: figure.percent for name, figure in result.rows["composed"].items()} == figures
    assert {name: group["mAP@10"].percent for name, group in result.groups.items()} == aspects
    assert len(aspects) == 9 and {len(group) for group in result.groups.values()} == {1}
    assert 20 < figures["mAP@5"] < figures["R@50"] < 95


def test_the_example_submission_scores_as_the_server_scores_it(completed: Path, real: Callable) -> None:
    ranked = json.loads((real("circo") / "submission_examples/submission_val.json").read_text())
    suite = open_suite("circo", completed, pictures=False)
    result = score_rankings(suite, {query: [str(number) for number in row] for query, row in ranked.items()})
    found = result.tasks[""]
    assert {name: figure.percent for name, figure in found.rows["composed"].items()} == GOLDEN
    assert {name: group["mAP@10"].percent for name, group in found.groups.items()} == GOLDEN_ASPECTS
    rows = json.loads((completed / "annotations/val.json").read_text(encoding="utf-8"))
    assert official(rows, np.array(list(ranked.values()))) == (GOLDEN, GOLDEN_ASPECTS)  # our restatement agrees, too


def test_the_hidden_split_has_its_queries_and_no_labels(completed: Path) -> None:
    suite = open_suite("circo", completed, split="test", pictures=False)
    (task,) = suite.tasks
    assert (len(task.queries), task.query_ids[799], suite.labelled) == (800, "799", False)
    assert task.groups == () and task.views[0].metrics == ()


def test_figures_worked_out_by_hand(circo: Callable) -> None:
    # The gallery is the identity, so that a query's vector is its list of scores; ids 70 10 60 30 20 50 40.
    scores = [[0.1, 0.9, 0.8, 0.7, 0.6, 0.2, 0.3], [0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.4]]
    suite = open_suite("circo", circo(), pictures=False)
    vectors = Vectors(np.eye(7, dtype=np.float32), {"composed": np.array(scores, dtype=np.float32)})
    result = score(suite, {"": vectors}).tasks[""]
    # 0: its own reference first (nothing is excluded), then 60, 30 and 20 right: (1/3 + 2/4) / 2. 1: right at rank 7.
    found = result.rows["composed"]
    assert [found[f"mAP@{k}"].percent for k in KS] == pytest.approx([100 * 5 / 24, *[100 * (5 / 12 + 1 / 7) / 2] * 3])
    assert [found[f"R@{k}"].hits for k in KS] == [1, 2, 2, 2]
    assert list(result.groups) == ["negation", "viewpoint"]
    assert [group["mAP@10"].queries for group in result.groups.values()] == [1, 2]
    assert result.groups["negation"]["mAP@10"].percent == pytest.approx(100 * 5 / 12)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("relative", "has 1 dogs"),
        ("magiclens", "find a dog but has 1 dogs"),
        ("megapairs", "Find a picture that also a dog, but has 1 dogs."),
    ],
)
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_text_follows_its_rule_and_is_reported(circo: Callable, split: str, rule: str, text: str) -> None:
    suite = open_suite("circo", circo(), split=split, options={"text": rule}, pictures=False)
    (items,) = suite.tasks[0].queries[1:]
    assert (items[0].words, Path(items[0].image).name) == (text, "000000000020.jpg")
    assert f"text={rule}" in suite.title and "{relative_caption}" in suite.protocol["query text"]


@pytest.mark.parametrize("annotations", ["", "circo", "CIRCO"])
@pytest.mark.parametrize("listing", ["COCO2017_unlabeled/annotations", "annotations", "coco/annotations", "."])
@pytest.mark.parametrize("place", ["COCO2017_unlabeled/unlabeled2017", "unlabeled2017", "circo/unlabeled2017", "."])
def test_files_are_found_in_every_layout(
    circo: Callable, paint: Callable, annotations: str, listing: str, place: str
) -> None:
    folder = circo(annotations, listing)
    paint(folder, *(f"{place}/{number:012d}.jpg" for number in range(10, 80, 10)))
    for split in ("val", "test"):
        (task,) = open_suite("circo", folder, split=split).tasks
        assert list(task.gallery_ids) == ["70", "10", "60", "30", "20", "50", "40"]
        assert Path(task.gallery[0].image) == folder / place / "000000000070.jpg"


def test_an_encoder_is_measured_on_val_and_refused_on_the_hidden_split(
    circo: Callable, paint: Callable, encoder
) -> None:
    paint(circo(), *(f"unlabeled2017/{number:012d}.jpg" for number in range(10, 80, 10)))
    result = evaluate(encoder, open_suite("circo", circo()))
    assert list(result.tasks[""].rows) == ["composed", "image only", "text only", "sum"]
    assert all(row["R@10"].hits == 2 for row in result.tasks[""].rows.values())
    with pytest.raises(DataError, match="labels of circo test text=relative are hidden.*eval submit"):
        evaluate(encoder, open_suite("circo", circo(), split="test"))
