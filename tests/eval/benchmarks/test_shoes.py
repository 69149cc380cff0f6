"""Shoes and LaSCo, held against their rules, restated here without our code; layouts; bad files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import open_suite
from eval.scoring.score import Vectors, score
from mllm_embed.errors import DataError

KS = (1, 10, 50)


@pytest.fixture
def shoes(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """70 pictures, 40 pairs of them, one of which asks for its own reference, and a pair of the training list."""

    def make(folder: str = "") -> Path:
        names = [f"img_womens_{'rain_boots' if at % 2 else 'flats'}_{at}.jpg" for at in range(70)]
        rows = [pair(names[(7 * at + 3) % 70], names[at], f" is {at}\n") for at in range(40)]
        rows.insert(3, pair("img_womens_clogs_1.jpg", "img_womens_clogs_2.jpg", "of the training list"))
        rows[9]["ImageName"] = rows[9]["ReferenceImageName"]
        write(tmp_path / folder / "relative_captions_shoes.json", rows)
        write(tmp_path / folder / "eval_im_names.txt", "\n".join(names) + "\n")
        return tmp_path

    return make


def pair(target: str, reference: str, text: str) -> dict[str, str]:
    return {"ImageName": target, "ReferenceImageName": reference, "RelativeCaption": text}


def official(folder: Path, gallery: np.ndarray, queries: np.ndarray) -> list[float]:
    """Put the reference last, sort, look for the target's place, average in float32."""
    names = (folder / "eval_im_names.txt").read_text().split()
    rows = json.loads((folder / "relative_captions_shoes.json").read_text())
    rows = [row for row in rows if row["ImageName"] in names and row["ReferenceImageName"] in names]
    places = []
    for row, query in zip(rows, queries, strict=True):
        similarity = gallery.astype(np.float64) @ query.astype(np.float64)
        similarity[names.index(row["ReferenceImageName"])] = -np.inf
        places.append(np.argsort(-similarity, kind="stable").tolist().index(names.index(row["ImageName"])))
    return [float(np.float32(sum(place < k for place in places)) / np.float32(len(places))) * 100 for k in KS]


def check_equal(folder: Path, draw: Callable, noise: float) -> list[float]:
    suite = open_suite("shoes", folder, pictures=False)
    (task,) = suite.tasks
    near = [row or (0,) for row in task.views[0].targets]
    gallery, queries = draw(len(task.gallery), near, noise=noise)
    result = score(suite, {"": Vectors(gallery, {"composed": queries})})
    found = [result.percent(f"R@{k}") for k in KS]
    assert found == official(folder, gallery, queries)
    assert result.means["composed"]["mean of R@K"].percent == float(np.mean(found))
    return found


def test_every_figure_equals_the_official_rule_in_every_digit(shoes: Callable, draw: Callable) -> None:
    found = check_equal(shoes(), draw, 3.0)
    assert 10 < found[0] < found[1] < 100 * 39 / 40


def test_the_real_files_give_1761_queries_and_the_official_figures(real: Callable, draw: Callable) -> None:
    folder = real("shoes")
    (task,) = open_suite("shoes", folder, pictures=False).tasks
    assert (len(task.queries), len(task.gallery)) == (1761, 4658)
    assert sum(not row for row in task.views[0].targets) == 1  # the row whose target is its reference
    check_equal(folder, draw, 3.0)


@pytest.mark.parametrize("folder", ["", "dataset", "Shoes"])
@pytest.mark.parametrize(
    "place", ["womens_{kind}/{half}", "womens/womens_{kind}/{half}", "attributedata/womens_{kind}/{half}", "."]
)
def test_pictures_are_found_in_every_layout(shoes: Callable, paint: Callable, folder: str, place: str) -> None:
    root = shoes(folder)
    paint(root, *(f"{at_of(place, at)}/img_womens_{kind_of(at)}_{at}.jpg" for at in range(70)))
    (task,) = open_suite("shoes", root).tasks
    assert Path(task.gallery[5].image) == root / at_of(place, 5) / "img_womens_rain_boots_5.jpg"
    assert task.queries[0][0].words == "is 0" and task.query_ids[:4] == ["0", "1", "2", "4"]


def kind_of(at: int) -> str:
    return "rain_boots" if at % 2 else "flats"


def at_of(place: str, at: int) -> str:
    return place.format(kind=kind_of(at), half=at % 3 % 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].pop("ReferenceImageName") and None, 'row 1: "ReferenceImageName" is missing or no str'),
        (lambda rows: {"rows": rows}, "must hold a list of objects"),
        (lambda rows: rows[3:4], "there is no query"),
    ],
)
def test_a_bad_file_of_shoes_is_refused(shoes: Callable, spoil: Callable, change: Callable, message: str) -> None:
    root = shoes()
    spoil(root / "relative_captions_shoes.json", change)
    with pytest.raises(DataError, match=message):
        open_suite("shoes", root, pictures=False)


def test_a_list_of_shoes_with_a_double_is_refused(shoes: Callable) -> None:
    root = shoes()
    names = root / "eval_im_names.txt"
    names.write_text(names.read_text() + "img_womens_flats_0.jpg")
    with pytest.raises(DataError, match='the id "img_womens_flats_0.jpg" stands twice'):
        open_suite("shoes", root, pictures=False)
    names.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="eval_im_names.txt is no text in UTF-8"):
        open_suite("shoes", root, pictures=False)


@pytest.fixture
def lasco(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    """A corpus of 60 pictures, whose paths begin otherwise than those of the 30 queries; one qid stands twice."""

    def make(folder: str = "") -> Path:
        def picture(number: int) -> list[Any]:
            return [number, f"val2014/COCO_val2014_{number:012d}.jpg"]

        corpus = [{"id": number, "path": f"val/{picture(number)[1]}"} for number in range(100, 160)]
        rows = [
            {
                "qid": 7000 + at if at != 5 else 7004,
                "query-image": picture(100 + at),
                "query-text": f"there are {at}",
                "target-image": picture(159 - at),
            }
            for at in range(30)
        ]
        write(tmp_path / folder / "lasco_val_corpus.json", corpus)
        write(tmp_path / folder / "lasco_val.json", rows)
        return tmp_path

    return make


def test_lasco_counts_the_target_in_the_whole_corpus(lasco: Callable, draw: Callable) -> None:
    (task,) = (suite := open_suite("lasco", lasco(), pictures=False)).tasks
    gallery, queries = draw(60, task.views[0].targets, noise=3.0)
    result = score(suite, {"": Vectors(gallery, {"composed": queries})}).tasks[""]
    order = np.argsort(-(queries.astype(np.float64) @ gallery.astype(np.float64).T), axis=1, kind="stable")
    places = [row.tolist().index(59 - at) for at, row in enumerate(order)]
    found = {name: figure.hits for name, figure in result.rows["composed"].items()}
    assert found == {f"R@{k}": sum(place < k for place in places) for k in (1, 5, 10, 50, 100)}
    assert task.query_ids[3:7] == ["7003", "7004", "7004#2", "7006"] and task.gallery_ids[0] == "100"


@pytest.mark.parametrize("folder", ["", "downloads", "LaSCo"])
@pytest.mark.parametrize("place", ["val2014", "images/val2014", "val/val2014", "coco/val2014", "."])
def test_pictures_of_lasco_are_found_in_every_layout(lasco: Callable, paint: Callable, folder: str, place: str) -> None:
    root = lasco(folder)
    paint(root, *(f"{place}/COCO_val2014_{number:012d}.jpg" for number in range(100, 160)))
    (task,) = open_suite("lasco", root).tasks
    assert Path(task.gallery[1].image) == root / place / "COCO_val2014_000000000101.jpg"
    assert task.queries[1][0].image == task.gallery[1].image


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("lasco_val.json", lambda rows: rows[1].pop("qid") and None, 'row 1: "qid" is missing or no int'),
        (
            "lasco_val.json",
            lambda rows: rows[1].update({"query-image": ["7", "a"]}),
            '"query-image" must be a number and',
        ),
        ("lasco_val.json", lambda rows: rows[1].update({"target-image": [7, "a"]}), 'row 1: "7" is not in the gallery'),
        ("lasco_val_corpus.json", lambda rows: rows[1].update(id=100), 'the id "100" stands twice'),
    ],
)
def test_a_bad_file_of_lasco_is_refused(
    lasco: Callable, spoil: Callable, file: str, change: Callable, message: str
) -> None:
    root = lasco()
    spoil(root / file, change)
    with pytest.raises(DataError, match=message):
        open_suite("lasco", root, pictures=False)
