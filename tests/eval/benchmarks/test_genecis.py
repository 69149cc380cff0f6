"""GeneCIS, held against its own eval_functions.py, restated here without our code; its ties; its crops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.benchmarks import open_suite
from eval.benchmarks.genecis import Crop
from eval.scoring.evaluate import embed, evaluate
from eval.scoring.result import Result
from eval.scoring.score import TIES, Vectors, score
from eval.scoring.suite import Suite
from mllm_embed.inputs.images import load_image

TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
OBJECT_TASKS = ("focus_object", "change_object")
SIZES = {  # queries and candidates of the real files, and which rows name a candidate twice
    "focus_attribute": (2000, 10, [14, 312, 341, 653, 659, 1614]),
    "change_attribute": (2112, 15, [297, 302, 318, 1023, 1034]),
    "focus_object": (1960, 15, []),
    "change_object": (1960, 15, [19]),
}
KS = (1, 2, 3)
Key = tuple[float, ...]


def key_of(entry: dict) -> Key:
    """A picture's number, and its box where it is cut out."""
    return (int(entry.get("val_image_id") or entry["image_id"]), *entry.get("instance_bbox", ()))


def the_rows(folder: Path, task: str) -> list[list[Key]]:
    """The pictures of every query, target first, as GeneCIS' data loader gives them."""
    rows = json.loads((folder / f"genecis/{task}.json").read_text(encoding="utf-8"))
    return [[key_of(row["target"]), *map(key_of, row["gallery"])] for row in rows]


def official_percents(rows: list[list[Key]], vectors: dict[Key, np.ndarray], queries: np.ndarray) -> list[float]:
    """Sort target and distractors by similarity, find index 0, average the hits."""
    ranks = []
    for numbers, query in zip(rows, queries.astype(np.float64), strict=True):
        similarity = np.stack([vectors[number] for number in numbers]).astype(np.float64) @ query
        ranks.append(np.argsort(-similarity, kind="stable").tolist().index(0))
    return [float(np.mean(np.array(ranks) < k)) * 100 for k in KS]


def opened(folder: Path, task: str) -> Suite:
    return open_suite("genecis", folder, options={"task": task}, pictures=False)


def in_gallery_order(suite: Suite, vectors: dict[Key, np.ndarray]) -> np.ndarray:
    keys, names = sorted(vectors), suite.tasks[0].gallery_ids
    assert [str(number) for number, *_ in keys] == [name.partition(":")[0] for name in names]
    return np.stack([vectors[key] for key in keys])


def drawn(rows: list[list[Key]], draw: Callable, seed: int = 0) -> tuple[dict[Key, np.ndarray], np.ndarray]:
    """A vector for every picture, and queries near their targets."""
    place = {key: at for at, key in enumerate(sorted({key for row in rows for key in row}))}
    gallery, queries = draw(len(place), [[place[row[0]]] for row in rows], noise=3.0, seed=seed)
    return dict(zip(place, gallery, strict=True)), queries


def figures(result: Result, task: str) -> list:
    return [result.tasks[task].rows["composed"][f"R@{k}"] for k in KS]


@pytest.mark.parametrize("task", TASKS)
def test_every_figure_equals_the_official_rules_in_every_digit(real: Callable, draw: Callable, task: str) -> None:
    rows, suite = the_rows(real("genecis"), task), opened(real("genecis"), task)
    vectors, queries = drawn(rows, draw)
    (view,) = suite.tasks[0].views
    count, candidates, doubles = SIZES[task]
    assert len(suite.tasks[0].queries) == count and {len(row) for row in view.candidates} == {candidates}
    # a candidate that a gallery names twice is there twice, for the official scorer as for ours
    assert [number for number, row in enumerate(view.candidates) if len(set(row)) < len(row)] == doubles
    ranks = {}
    for number in doubles:
        target, twice = rows[number][0], max(rows[number], key=rows[number].count)
        mixed = 1.9 * vectors[target] + 2 * vectors[twice]
        queries[number] = mixed / np.linalg.norm(mixed)
        # the target's twin stands behind it, a nearer distractor's before it as well
        ranks[number] = 1 if twice == target else 3
    result = score(suite, {task: Vectors(in_gallery_order(suite, vectors), {"composed": queries})})
    for number, rank in ranks.items():
        assert [result.tasks[task].values[f"R@{k}"][number] for k in KS] == [rank <= k for k in KS]
    found = figures(result, task)
    assert [figure.percent for figure in found] == official_percents(rows, vectors, queries)
    assert 20 < found[0].percent < found[2].percent < 95
    assert [figure.tied for figure in found] == [0, 0, 0]


def by_hand(rows: list[list[Key]], vectors: dict[Key, np.ndarray], queries: np.ndarray) -> dict[str, np.ndarray]:
    """Ranks under the three tie rules; a target's own second entry (in two rows of the real files) is no rival."""
    ranks: dict[str, list[int]] = {rule: [] for rule in TIES}
    for (target, *others), query in zip(rows, queries.astype(np.float64), strict=True):
        scores = {number: np.float32(vectors[number].astype(np.float64) @ query) for number in {target, *others}}
        rivals = [number for number in others if number != target]
        ahead = sum(scores[number] > scores[target] for number in rivals)
        equal = [number for number in rivals if scores[number] == scores[target]]
        ranks["optimistic"].append(1 + ahead)
        ranks["gallery"].append(1 + ahead + sum(number < target for number in equal))
        ranks["pessimistic"].append(1 + ahead + len(equal))
    return {rule: np.array(found) for rule, found in ranks.items()}


@pytest.mark.slow
@pytest.mark.parametrize("task", OBJECT_TASKS)
@pytest.mark.parametrize("kind", ["twins", "constant"])
def test_ties_are_settled_by_rule_and_counted(real: Callable, draw: Callable, task: str, kind: str) -> None:
    rows, suite = the_rows(real("genecis"), task), opened(real("genecis"), task)
    vectors, queries = drawn(rows, draw, seed=1)
    keys = sorted(vectors)
    numbers = [keys[at] for at in np.random.default_rng(0).permutation(len(keys))]
    if kind == "constant":
        vectors, queries = dict.fromkeys(vectors, queries[0]), np.repeat(queries[:1], len(rows), axis=0)
    for one, other in zip(numbers[:400], numbers[400:800], strict=True):
        vectors[one] = vectors[other]
    ranks = by_hand(rows, vectors, queries)
    for rule in TIES:
        result = score(suite, {task: Vectors(in_gallery_order(suite, vectors), {"composed": queries})}, ties=rule)
        assert [figure.hits for figure in figures(result, task)] == [(ranks[rule] <= k).sum() for k in KS]
        hang = [((ranks["optimistic"] <= k) & (ranks["pessimistic"] > k)).sum() for k in KS]
        assert [figure.tied for figure in figures(result, task)] == hang and hang[0] > 0


@pytest.mark.parametrize("task", OBJECT_TASKS)
def test_a_constant_embedding_gets_what_guessing_gets_and_not_100(real: Callable, task: str) -> None:
    suite = opened(real("genecis"), task)
    ones = np.ones((len(suite.tasks[0].gallery), 4), dtype=np.float32)
    count, candidates, _ = SIZES[task]
    vectors = {task: Vectors(ones, {"composed": ones[:count]})}
    found = {rule: [figure.percent for figure in figures(score(suite, vectors, ties=rule), task)] for rule in TIES}
    # not even a row that names its target twice escapes: 13 distractors are ahead of it
    assert found["pessimistic"] == [0, 0, 0]
    assert found["optimistic"] == [100, 100, 100]
    assert found["gallery"] == pytest.approx([100 * k / candidates for k in KS], abs=2)


def test_the_mean_is_over_the_four_tasks_and_figures_are_those_worked_out_by_hand(genecis: Callable) -> None:
    suite = open_suite("genecis", genecis(), pictures=False)
    assert [task.name for task in suite.tasks] == list(TASKS) and suite.title == "genecis task=all"
    vectors = {}
    for task in suite.tasks:
        by_number = ["3", "5", "8"] if "object" in task.name else ["1:3,2.5,6,5", "3:5,2.5,6,5", "3:8,2.5,6,5"]
        assert list(task.gallery_ids) == by_number
        # The gallery is the identity: a query's vector is its list of scores for 3, 5 and 8.
        # red: 8 among 8, 3, 5, 8: second. wall: 5 among 5, 8, 3: ties with 3 for the first place, which comes before.
        scores = np.array([[0.9, 0.1, 0.5], [0.7, 0.7, 0.2]], dtype=np.float32)
        if task.name == "focus_object":
            scores[0] = [0.1, 0.2, 0.3]
        vectors[task.name] = Vectors(np.eye(3, dtype=np.float32), {"composed": scores})
    result = score(suite, vectors)
    for name in TASKS:
        assert [figure.hits for figure in figures(result, name)] == ([1, 2, 2] if name == "focus_object" else [0, 2, 2])
        assert [figure.tied for figure in figures(result, name)] == [1, 0, 0]
    assert result.means["composed"]["mean R@1"].percent == 50 / 4
    assert result.tasks["focus_object"].answers[0].tolist() == [2, 2, 1, 0, *[-1] * 6]
    (alone,) = open_suite("genecis", genecis(), options={"task": "change_object"}, pictures=False).tasks
    assert alone.name == "change_object" and [items[0].words for items in alone.queries] == ["red", "wall"]
    assert open_suite("genecis", genecis(), options={"task": "change_object"}, pictures=False).means == ()


@pytest.mark.parametrize("annotations", ["genecis", "", "GeneCIS", "GeneCIS/genecis"])
@pytest.mark.parametrize("coco", ["val2017", "coco/val2017", "coco/images/val2017", "genecis/val2017", "."])
@pytest.mark.parametrize(
    "genome",
    [("VG_All",) * 3, ("VG_100K", "VG_100K_2", "VG_100K"), ("vg/VG_100K", "vg/VG_100K_2", "VG/VG_100K"), (".",) * 3],
)
def test_pictures_are_found_in_every_layout(
    genecis: Callable, paint: Callable, annotations: str, coco: str, genome: tuple[str, ...]
) -> None:
    folder = genecis(annotations)
    paint(folder, *(f"{coco}/{number:012d}.jpg" for number in (3, 5, 8, 9)))
    paint(folder, *(f"{place}/{number}.jpg" for number, place in enumerate(genome, start=1)))
    tasks = {task.name: task for task in open_suite("genecis", folder).tasks}
    for name in OBJECT_TASKS:
        paths = [Path(item.image) for item in tasks[name].gallery]
        assert paths == [folder / coco / f"{number:012d}.jpg" for number in (3, 5, 8)]
        assert Path(tasks[name].queries[0][0].image) == folder / coco / "000000000009.jpg"
    for name in ("focus_attribute", "change_attribute"):
        crops = [item.image for item in tasks[name].gallery]
        assert [crop.path for crop in crops] == [folder / genome[at - 1] / f"{at}.jpg" for at in (1, 3, 3)]
        assert [crop.box for crop in crops] == [(number, 2.5, 6, 5) for number in (3, 5, 8)]
        assert tasks[name].queries[0][0].image == Crop(folder / genome[0] / "1.jpg", (9.0, 2.5, 6.0, 5.0))


PIXELS = np.stack(np.broadcast_arrays(np.arange(24) * 10, np.arange(20)[:, None] * 12, 77), axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("box", "cut", "before"),
    [  # box x, y, w, h; what remains of the picture: left, top, right, bottom; black columns left, black rows above
        ((8, 7, 4, 4), (5, 4, 12, 11), (0, 0)),  # 5.2 4.2 to 12 11: 1.7 sizes from the moved corner, a square
        ((4, 6, 5, 2), (0, 5, 9, 8), (0, 3)),  # 0.5 4.6 to 9.0 8.0: wide, three black rows above and three below
        ((9.25, 3.5, 2.5, 6), (8, 0, 12, 10), (3, 0)),  # 7.5 0 to 11.75 10.2: the corner is cut off at the top
        ((20, 0, 10, 10), (13, 0, 24, 17), (3, 0)),  # 13 0 to 30 17: cut off on the right, not pushed back
        ((0, 15, 10, 4), (0, 12, 17, 19), (0, 5)),  # 0 12.2 to 17 19: the far edge starts from the cut corner
        ((0, 0, 24, 20), (0, 0, 24, 20), (0, 2)),  # the whole picture
        ((1, 1, 4, 1), (0, 0, 7, 2), (0, 2)),  # 0 0.3 to 6.8 2.0: an odd rest, two black rows above, three below
        ((1, 1, 1, 4), (0, 0, 2, 7), (2, 0)),  # 0.3 0 to 2.0 6.8: the same on its side
    ],
)
def test_a_crop_is_dilated_cut_off_and_padded_as_genecis_does(
    tmp_path: Path, box: tuple, cut: tuple[int, int, int, int], before: tuple[int, int]
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "1.png")
    left, top, right, bottom = cut
    side = max(right - left, bottom - top)
    wanted = np.zeros((side, side, 3), dtype=np.uint8)
    across, down = before
    wanted[down : down + bottom - top, across : across + right - left] = PIXELS[top:bottom, left:right]
    crop = Crop(tmp_path / "1.png", box).read()
    assert crop.mode == "RGB" and np.array_equal(np.asarray(crop), wanted)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_a_crop_of_any_picture_is_rgb_and_passes_for_a_picture(tmp_path: Path, mode: str) -> None:
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / "1.gif" if mode == "P" else tmp_path / "1.jpg")
    (path,) = tmp_path.iterdir()
    one, same, other = (Crop(path, (8.0, 7.0, 4.0, height)) for height in (4.0, 4.0, 3.0))
    picture = load_image(one)
    assert (picture.mode, picture.size) == ("RGB", (7, 7))
    assert one == same and hash(one) == hash(same) and one != other


def test_bare_words_are_asked_through_prompts_of_their_own(genecis: Callable, paint: Callable, encoder) -> None:
    folder = genecis()
    paint(folder, *(f"val2017/{number:012d}.jpg" for number in (3, 5, 8, 9)))
    for number in (1, 2, 3):  # every crop of these looks different
        pixels = np.random.default_rng(number).integers(0, 256, (30, 24, 3), dtype=np.uint8)
        (folder / "VG_100K").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"VG_100K/{number}.jpg")
    suite = open_suite("genecis", folder)
    result = evaluate(encoder, suite)
    focus = "Describe this image focusing on its {instruction} in one word:"
    change = 'Modify this image with "same but {instruction}", describe modified image in one word:'
    composed = [prompt for role, prompt, _ in encoder.asked if role == "composed"]
    assert {prompt: composed.count(prompt) for prompt in composed} == {focus: 4, change: 4}
    assert {prompt for role, prompt, _ in encoder.asked if role == "image"} == {encoder.prompts.image}
    prompts = {"focus": {"composed": focus}, "change": {"composed": change}}
    wanted = {f"{what}_{kind}": prompts[what] for what in prompts for kind in ("attribute", "object")}
    assert result.protocol["prompts by task"] == wanted
    vectors = embed(encoder, suite)[0]
    gallery = {name: made.gallery for name, made in vectors.items()}
    assert (gallery["focus_object"] == gallery["change_object"]).all()
    assert not np.allclose(vectors["focus_object"].rows["composed"], vectors["change_object"].rows["composed"])
    for name in TASKS:
        assert list(result.tasks[name].rows) == ["composed", "image only", "text only", "sum"]
        assert len(np.unique(gallery[name], axis=0)) == 3
    assert list(result.means) == ["composed", "image only", "text only", "sum"]
