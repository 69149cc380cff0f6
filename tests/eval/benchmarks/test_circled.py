"""CIRCLED: sessions in its published schema over the files of FashionIQ, CIRR and CIRCO, made up and real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import check_benchmark, open_suite
from eval.scoring.evaluate import evaluate
from mllm_embed.errors import DataError


def session(subset: str, number: int, truths: list[str], *turns: tuple[str, str]) -> dict[str, Any]:
    """A session as `convert_to_public.py` writes it."""
    return {
        "session_id": f"{subset}_{number:04d}",
        "subset": subset,
        "ground_truth_ids": truths,
        "num_turns": len(turns),
        "turns": [
            {"turn": at, "reference_image_id": reference, "relative_caption": words}
            for at, (reference, words) in enumerate(turns, 1)
        ],
    }


@pytest.fixture
def cirr_val(cirr: Callable, write: Callable) -> Path:
    root = cirr("cirr")
    rows = [
        session("cirr_val", 0, ["m6"], ("m0", "with a dog"), ("m3", "Replace it in Image 1"), ("m5", "")),
        session("cirr_val", 1, ["m2"], ("m1", "in snow"), ("m4", "nearer")),
    ]
    write(root / "data/cirr_val.json", rows)
    return root


def test_a_turn_is_a_task_over_the_gallery_of_the_source(cirr_val: Path) -> None:
    suite = open_suite("circled", cirr_val, pictures=False)
    assert (suite.split, suite.turns) == ("cirr_val", ("turn-1", "turn-2", "turn-3"))
    first, second, third = suite.tasks
    assert first.gallery_ids == [f"m{number}" for number in range(8)] and first.gallery is third.gallery
    assert second.query_ids == ["cirr_val_0000", "cirr_val_0001"] and third.query_ids == ["cirr_val_0000"]
    [asked] = second.queries[0]
    assert (Path(asked.images[0]).name, asked.instruction) == ("m3.png", "Replace it in Image 1")
    assert third.queries[0][0].instruction is None  # no words: the picture alone
    view = second.views[0]
    assert (view.targets, view.exclude) == ([(6,), (2,)], None)  # references stay in
    assert [metric.name for metric in view.metrics] == ["R@1", "R@5", "R@10", "R@50"]
    assert (
        "could not be read" in suite.protocol["differs"] and "programs that knew the target" in suite.protocol["leaks"]
    )


def test_each_subset_is_found_in_the_layout_of_its_source(
    fashioniq: Callable, circo: Callable, write: Callable, tmp_path: Path
) -> None:
    fashioniq("fashion-iq"), circo("CIRCO")
    write(
        tmp_path / "fashioniq_shirt_val.json",
        [session("fashioniq_shirt_val", 0, ["S4"], ("S0", "is red"), ("S2", "longer"))],
    )
    rows = [session("circo_val", 0, ["000000000030", "000000000020"], ("000000000010", "a cat"), ("000000000070", "x"))]
    write(tmp_path / "CIRCLED/data/circo_val.json", rows)
    shirts = open_suite("circled", tmp_path, split="fashioniq_shirt_val", pictures=False).tasks[0]
    assert shirts.gallery_ids == ["S3", "S1", "S2", "S0", "S4"] and shirts.views[0].targets == [(4,)]
    coco = open_suite("circled", tmp_path, split="circo_val", pictures=False).tasks[1]
    assert coco.gallery_ids == ["70", "10", "60", "30", "20", "50", "40"] and coco.views[0].targets == [(3, 4)]
    assert Path(coco.queries[0][0].images[0]).name == "000000000070.jpg"
    with pytest.raises(
        DataError, match=r"circled: data/cirr_val.json, image_splits/split.rc2.val.json not found under"
    ):
        open_suite("circled", tmp_path)


def test_a_run_carries_the_past_and_finds_by_turn(cirr_val: Path, encoder: Any, paint: Callable) -> None:
    paint(cirr_val, *(f"cirr/dev/m{number}.png" for number in range(8)))
    counts, suite = check_benchmark("circled", cirr_val)
    assert [(count.found, count.of) for count in counts] == [(1, 1), (1, 1), (8, 8)]
    result = evaluate(encoder, suite)
    assert result.tasks["found@10"].rows["target-free: joined"]["by turn 1"].hits == 2  # of eight pictures
    assert result.tasks["turn-3"].queries == 1 and result.turns["found@10"]["composed"].mean == 1
    cirr_picture = cirr_val / "cirr/dev/m7.png"
    cirr_picture.unlink()
    with pytest.raises(DataError, match="1 of 8 gallery pictures are missing under .*, the first is dev/m7.png"):
        open_suite("circled", cirr_val)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(ground_truth_ids=[]), '_0000": "ground_truth_ids" must be ids, at least one'),
        (lambda rows: rows[0].update(ground_truth_ids=["m6", "m6"]), 'the id "m6" stands twice'),
        (lambda rows: rows[0].update(turns=[]), '_0000": each of "turns" must have turn, reference_image_id'),
        (lambda rows: rows[0]["turns"][1].pop("relative_caption"), '_0000": each of "turns" must have'),
        (lambda rows: rows[0]["turns"][1].update(turn=1), '_0000": its "turns" are not in the order of their numbers'),
        (lambda rows: rows[0]["turns"][1].update(reference_image_id="m9"), '_0000": "m9" is not in the gallery'),
        (lambda rows: rows[1].update(session_id="cirr_val_0000"), 'the id "cirr_val_0000" stands twice'),
        (lambda rows: {"results": rows}, "must hold a list of objects"),
    ],
)
def test_wrong_sessions_are_named(cirr_val: Path, spoil: Callable, change: Callable, message: str) -> None:
    spoil(cirr_val / "data/cirr_val.json", lambda rows: result if isinstance(result := change(rows), dict) else None)
    with pytest.raises(DataError, match=message):
        open_suite("circled", cirr_val, pictures=False)


REFERENCES = {
    "cirr": ("captions/cap.rc2.val.json", "reference", "target_hard"),
    "fashioniq": ("captions/cap.{0}.val.json", "candidate", "target"),
}


@pytest.mark.parametrize("subset", ["cirr_val", "fashioniq_dress_val"])
def test_sessions_of_real_ids_open_over_the_real_image_splits(
    subset: str, real: Callable, write: Callable, tmp_path: Path
) -> None:
    """Made-up sessions of the pictures that the real queries name, two queries of one target a session."""
    family, category = subset.split("_")[0], subset.split("_")[1]
    source, (file, reference, target) = real(family), REFERENCES[family]
    rows = json.loads((source / file.format(category)).read_text())
    sessions = [
        session(subset, at, [row[target]], (row[reference], "x"), (rows[at - 1][reference], "y"))
        for at, row in enumerate(rows[:200])
    ]
    write(tmp_path / f"data/{subset}.json", sessions)
    (tmp_path / family).symlink_to(source)
    suite = open_suite("circled", tmp_path, split=subset, pictures=False)
    first, second = suite.tasks
    sizes = {"cirr": 2297, "dress": 3817}
    assert len(first.gallery) == sizes[category if family == "fashioniq" else family] and len(second.queries) == 200
    assert [items[0].instruction for items in second.queries] == ["y"] * 200
