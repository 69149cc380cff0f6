"""i-CIR, held against its own compute_map, restated here without our code; galleries of their own; bad files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.benchmarks import check_benchmark, open_suite
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite
from mllm_embed.errors import DataError

TEXTS = ("at night", "as a drawing", "in snow")


@pytest.fixture
def icir(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """Three instances, named not in the order of the file; 90, 8 and 5 pictures, one of them in two databases."""

    def make(folder: str = "", queries: list[str] | None = None, database: list[str] | None = None) -> Path:
        rng = np.random.default_rng(5)
        pictures = [
            f"icir/database/{name}/{at}.jpg,{TEXTS[int(rng.integers(3))]},{name}"
            for name, count in (("temple", 90), ("bear", 8), ("mug", 5))
            for at in range(count)
        ]
        pictures.append("icir/database/bear/0.jpg,a hard negative of another kind,mug")
        asked = [
            f"icir/query/{name}/{at}.jpg,{text},{name}" for name in ("temple", "bear") for at, text in enumerate(TEXTS)
        ]
        write(tmp_path / folder / "database_files.csv", "\n".join(pictures if database is None else database) + "\n")
        write(tmp_path / folder / "query_files.csv", "\n".join(asked if queries is None else queries) + "\n")
        return tmp_path

    return make


def opened(folder: Path) -> Suite:
    return open_suite("icir", folder, pictures=False)


def official(folder: Path, gallery: np.ndarray, queries: np.ndarray) -> tuple[float, list[float]]:
    """Instance by instance, sorted: rank its database, mark what has the query's text, add trapezoids, average."""
    asked = [line.split(",") for line in (folder / "query_files.csv").read_text().splitlines()]
    pictures = [line.split(",") for line in (folder / "database_files.csv").read_text().splitlines()]
    values = []
    for instance in sorted({line[2] for line in asked}):
        inside = [at for at, line in enumerate(pictures) if line[2] == instance]
        for number in [at for at, line in enumerate(asked) if line[2] == instance]:
            similarity = gallery[inside].astype(np.float64) @ queries[number].astype(np.float64)
            ranking = [inside[at] for at in np.argsort(-similarity, kind="stable")]
            correct = [at for at, picture in enumerate(ranking) if pictures[picture][1] == asked[number][1]]
            value, step = 0.0, 1.0 / (len(correct) + 1e-5)
            for found, rank in enumerate(correct):
                before = 1.0 if rank == 0 else float(found) / rank
                value += (before + float(found + 1) / (rank + 1)) * step / 2.0
            values.append(value)
    return float(np.mean(values)) * 100, values


def test_every_figure_equals_the_official_rule_in_every_digit(icir: Callable, draw: Callable) -> None:
    folder = icir()
    suite = opened(folder)
    (task,) = suite.tasks
    gallery, near = draw(len(task.gallery), [row[:2] for row in task.views[0].targets], noise=2.0)
    order = [int(name) for name in task.query_ids]
    queries = np.empty_like(near)
    queries[order] = near  # in the order of the file
    figure, values = official(folder, gallery, queries)
    result = score(suite, {"": Vectors(gallery, {"composed": near})}).tasks[""]
    assert result.rows["composed"]["mAP"].percent == figure and 20 < figure < 95
    assert result.values["mAP"].tolist() == values
    # a picture of another instance is never an answer
    assert all(
        set(found[found >= 0]) <= set(row) for found, row in zip(result.answers, task.views[0].candidates, strict=True)
    )


def test_an_instances_queries_share_one_gallery_and_are_ranked_in_its_order(icir: Callable) -> None:
    (task,) = opened(icir()).tasks
    assert task.query_ids == [
        "3",
        "4",
        "5",
        "0",
        "1",
        "2",
    ]  # bear before temple, as the authors' code goes through them
    (view,) = task.views
    assert [len(row) for row in view.candidates] == [8] * 3 + [90] * 3
    assert view.candidates[0] is view.candidates[2] and view.candidates[3] is view.candidates[5]
    assert [task.gallery_ids[at] for at in (0, 90, -1)] == [
        "icir/database/temple/0.jpg",
        "icir/database/bear/0.jpg",
        "icir/database/bear/0.jpg#2",  # it stands in two databases
    ]
    assert task.gallery[90].image == task.gallery[-1].image
    assert task.queries[0][0].words == "at night"


def test_figures_worked_out_by_hand(icir: Callable) -> None:
    folder = icir(
        queries=["icir/query/a.jpg,x,i"],
        database=[f"icir/database/{at}.jpg,{text},i" for at, text in enumerate("xyxz")],
    )
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], dtype=np.float32)
    result = score(opened(folder), {"": Vectors(np.eye(4, dtype=np.float32), {"composed": scores})}).tasks[""]
    # right at ranks 1 and 3: (1 + 1) / 2 and (1/2 + 2/3) / 2, by 2 + 1e-5
    assert result.rows["composed"]["mAP"].percent == pytest.approx(100 * (1 + 7 / 12) / 2.00001)
    assert result.rows["composed"]["R@1"].hits == 1


@pytest.mark.parametrize("folder", ["", "icir", "icir/annotations"])
@pytest.mark.parametrize("place", ["", "icir/", "data/icir/"])
def test_files_and_pictures_are_found_in_every_layout(icir: Callable, paint: Callable, folder: str, place: str) -> None:
    root = icir(folder, ["icir/query/q.jpg,x,i"], ["icir/database/d.jpg,x,i"])
    paint(root, f"{place}query/q.jpg", f"{place}database/d.jpg")
    (task,) = open_suite("icir", root).tasks
    assert Path(task.gallery[0].image) == root / f"{place}database/d.jpg"
    assert Path(task.queries[0][0].image) == root / f"{place}query/q.jpg"


def test_missing_files_are_counted_with_where_to_get_them(icir: Callable) -> None:
    root = icir("icir")
    (root / "icir/query_files.csv").unlink()
    counts, suite = check_benchmark("icir", root)
    assert suite is None and [count.found for count in counts] == [0, 1]
    with pytest.raises(DataError, match="query_files.csv not found .*; get it from vrg.fel.cvut.cz"):
        open_suite("icir", root)


@pytest.mark.parametrize(
    ("queries", "database", "message"),
    [
        (["a.jpg,x,i"], ["b.jpg,y,i"], 'query_files.csv line 0: no picture of "i" in .* has its text'),
        (["a.jpg,x,j"], ["b.jpg,x,i"], 'no picture of "j"'),
        (["a.jpg,x"], ["b.jpg,x,i"], "query_files.csv line 0 must be picture,text,instance"),
        (["a.jpg,x,i"], ["b.jpg,x,i", "c.jpg,red, blue,i"], "database_files.csv line 1 must be picture,text,instance"),
        (["a.jpg,x,i"], [",x,i"], "database_files.csv line 0 must be"),
        (["a.jpg,x,i"], ["b.jpg,x,i", "c.jpg,x,i", "b.jpg,x,i"], '"b.jpg" with "x" stands 2 times'),
        ([], ["b.jpg,x,i"], "query_files.csv is empty"),
    ],
)
def test_a_bad_file_is_refused(icir: Callable, queries: list[str], database: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(icir(queries=queries, database=database))
