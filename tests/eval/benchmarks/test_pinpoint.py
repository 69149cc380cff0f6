"""PinPoint, held against its own evaluate.py, restated here without our code; wordings, negatives; bad files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from eval.benchmarks import check_benchmark, open_suite
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite
from eval.studies.robustness import robustness
from mllm_embed.errors import DataError

KS = (1, 5, 10, 50)
NAMES = [f"{at:032x}" for at in range(1, 161)]


def row(number: int, first: int, second: int | None, right: list[int], wrong: list[int | None]) -> dict[str, Any]:
    return {
        "query_id": f"query_{number:05d}",
        "query_image_signature": NAMES[first],
        "query_image_signature2": "None" if second is None else NAMES[second],
        "instruction": f"a wish, worded as number {number}",
        "positive_candidates": [NAMES[at] for at in right],
        "negative_candidates": [None if at is None else NAMES[at] for at in wrong],
        "query_category": "Swap" if number % 2 else "Negation",
    }


def rows() -> list[dict[str, Any]]:
    """Forty queries: doubles in both lists, candidates that are in both, negatives that are none, one set of one."""
    rng = np.random.default_rng(3)
    made = []
    for number in range(40):
        first = number // 4
        right = rng.choice(160, int(rng.integers(1, 14)), replace=False).tolist()
        wrong: list[int | None] = rng.choice(160, int(rng.integers(2, 70)), replace=False).tolist()
        right += right[:1] * (number % 3 == 0)
        wrong += [*wrong[:2] * (number % 5 == 0), *right[:1] * (number % 4 == 1), *[None] * (number % 6 == 2)]
        made.append(row(number, first, first + 1 if first % 3 == 2 else None, right, wrong))
    made[39] |= {"query_image_signature": NAMES[77], "query_image_signature2": None}
    # two of a set ask for the same with other words
    made[1]["positive_candidates"] = list(reversed(made[0]["positive_candidates"]))
    return made


@pytest.fixture
def pinpoint(tmp_path: Path, write: Callable) -> Callable[..., Path]:
    def make(change: Callable[[list], Any] = lambda made: None, folder: str = "", names: list[str] = NAMES) -> Path:
        made = rows()
        change(made)
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), tmp_path / folder / "pinpoint_licensed.parquet")
        write(tmp_path / folder / "index_signatures.txt", "\n".join(names) + "\n")
        return tmp_path

    return make


def opened(folder: Path) -> Suite:
    return open_suite("pinpoint", folder, pictures=False)


def share(found: list, wanted: list, k: int, by: float) -> float:
    return sum(name in set(wanted) for name in found[:k]) / by


def precision_sum(found: list, wanted: list, k: int) -> float:
    total, hits = 0.0, 0
    for at, name in enumerate(found[:k]):
        if name in set(wanted):
            hits += 1
            total += hits / (at + 1)
    return total / min(len(wanted), k)


def official(made: list[dict[str, Any]], ranked: list[list[str]]) -> dict[str, float]:
    """Every metric of every query from its 50 answers, then means; spreads by pictures."""
    values: dict[str, list[float]] = {}
    spread: dict[tuple, list[float]] = {}
    for entry, found in zip(made, ranked, strict=True):
        right, wrong = entry["positive_candidates"], entry["negative_candidates"]
        clean = [name for name in found if name not in set(wrong)]
        for k in KS:
            own = {
                f"mAP@{k}": precision_sum(found, right, k),
                f"P@{k}": share(found, right, k, k),
                f"found@{k}": share(found, right, k, len(right)),
                f"NegRecall@{k}": share(found, wrong, k, min(len(wrong), k)),
                f"mAP@{k} without negatives": precision_sum(clean, right, k),
            }
            for name, value in own.items():
                values.setdefault(name, []).append(value)
        key = entry["query_image_signature"], entry["query_image_signature2"]
        spread.setdefault(key, []).append(share(found, right, 10, 10))
    figures = {name: float(np.mean(own)) * 100 for name, own in values.items()}
    several = [max(own) - min(own) for own in spread.values() if len(own) > 1]
    return figures | {"P@10 spread": float(np.mean(several)) * 100}


def test_every_figure_equals_the_official_rules_in_every_digit(pinpoint: Callable, draw: Callable) -> None:
    suite = opened(pinpoint())
    (task,) = suite.tasks
    near = [[*right[:2], *wrong[:1]] for right, wrong in zip(task.views[0].targets, task.views[1].targets, strict=True)]
    gallery, queries = draw(160, near, noise=1.5)
    order = np.argsort(-(queries.astype(np.float64) @ gallery.astype(np.float64).T), axis=1, kind="stable")
    wanted = official(rows(), [[NAMES[at] for at in found[:50]] for found in order])
    result = score(suite, {"": Vectors(gallery, {"composed": queries})}).tasks[""]
    found = {name: figure.percent for name, figure in result.rows["composed"].items()}
    # weights of sets are multiplied in, which moves the last digit
    assert found.pop("P@10 spread") == pytest.approx(wanted.pop("P@10 spread"), rel=1e-12)
    assert found == wanted and len(found) == 20
    assert found["NegRecall@10"] > 5 and found["mAP@10"] < found["mAP@10 without negatives"] < 95
    assert list(result.groups) == ["Negation", "Swap", "one picture", "two pictures"]
    assert set(result.groups["Swap"]) == {"mAP@10", "NegRecall@10"}


def test_what_a_file_names_twice_or_not_at_all_counts_in_the_denominator_alone(pinpoint: Callable) -> None:
    def change(made: list) -> None:
        made[:] = [row(0, 0, None, [4, 5, 5], [6, 6, None, 5]), row(1, 0, None, [4], [5])]

    suite = opened(pinpoint(change))
    scores = np.zeros((2, 160), dtype=np.float32)
    scores[0, [6, 4, 5]] = 0.9, 0.8, 0.7
    scores[1, [5, 4]] = 0.9, 0.8
    result = score(suite, {"": Vectors(np.eye(160, dtype=np.float32), {"composed": scores})}).tasks[""]
    own = {name: figure.tolist() for name, figure in result.values.items()}
    assert own["mAP@10"][0] == (1 / 2 + 2 / 3) / 3 and own["found@10"][0] == 2 / 3 and own["P@5"][0] == 2 / 5
    assert own["NegRecall@10"] == [2 / 4, 1.0] and own["NegRecall@1"] == [1.0, 1.0]
    # 5 is right and wrong: it goes with the negatives, and 4 moves up
    assert own["mAP@10 without negatives"] == [1 / 3, 1.0]
    assert result.rows["composed"]["P@10 spread"].percent == pytest.approx(100 * (2 / 10 - 1 / 10))


def test_wordings_and_negatives_are_those_of_the_file(pinpoint: Callable) -> None:
    (task,) = opened(pinpoint()).tasks
    assert task.paraphrases[0] == ["a wish, worded as number 1"] and task.paraphrases[1] == [
        "a wish, worded as number 0"
    ]
    assert task.paraphrases[2] == []
    for negatives, right, entry in zip(task.negatives, task.views[0].targets, rows(), strict=True):
        wrong = {name for name in entry["negative_candidates"] if name} - set(entry["positive_candidates"])
        assert {NAMES[at] for at in negatives} == wrong and not set(negatives) & set(right)
    one, two = task.queries[0][0], task.queries[8][0]
    assert [Path(image).stem for image in one.images] == [NAMES[0]]
    assert [Path(image).stem for image in two.images] == [NAMES[2], NAMES[3]]


def test_robustness_reads_them(pinpoint: Callable, paint: Callable, encoder) -> None:
    root = pinpoint(lambda made: made.__delitem__(slice(12, None)))
    paint(root, *(f"images/{name}.jpg" for name in NAMES))
    found = robustness(encoder, open_suite("pinpoint", root))
    assert found.wordings[""] == found.negatives[""] == "the benchmark's own"
    assert {"negative above target", "negative in first 10", "mAP@10, worst wording"} <= set(found.tasks[""])


@pytest.mark.parametrize("folder", ["", "pinpoint-dataset"])
@pytest.mark.parametrize(
    "place", ["{0}.jpg", "images/{0}.jpg", "{1}/{2}/{3}/{0}.jpg", "736x/{1}/{2}/{3}/{0}.jpg", "{0}.png"]
)
def test_pictures_are_found_in_every_layout(pinpoint: Callable, paint: Callable, folder: str, place: str) -> None:
    root = pinpoint(lambda made: made.__delitem__(slice(1, None)), folder)
    paths = [place.format(name, name[:2], name[2:4], name[4:6]) for name in NAMES]
    counts, _ = check_benchmark("pinpoint", root)
    assert (counts[-1].found, counts[-1].of) == (0, 160)
    paint(root, *paths)
    (task,) = open_suite("pinpoint", root).tasks
    assert Path(task.gallery[9].image) == root / paths[9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: [entry.pop("instruction") for entry in made], 'row 0: "instruction" is missing or no str'),
        (lambda made: made[3].update(positive_candidates=[]), 'query "query_00003": "positive_candidates" is empty'),
        (lambda made: made[3].update(instruction=" "), 'query "query_00003": "instruction" is empty'),
        (
            lambda made: made[3].update(positive_candidates=["f" * 32]),
            'query "query_00003": "f{32}" is not in the gallery',
        ),
        (
            lambda made: made[3].update(query_image_signature="f" * 32),
            'query "query_00003": "f{32}" is not in the gallery',
        ),
        (lambda made: made[3].update(positive_candidates=[None]), 'an entry of "positive_candidates" is no signature'),
        (lambda made: made[3].update(query_id="query_00004"), 'the id "query_00004" stands twice'),
    ],
)
def test_a_bad_file_is_refused(pinpoint: Callable, change: Callable, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(pinpoint(change))


def test_a_broken_table_and_a_double_in_the_index_are_refused(pinpoint: Callable) -> None:
    with pytest.raises(DataError, match="stands twice"):
        opened(pinpoint(names=[*NAMES, NAMES[3]]))
    root = pinpoint()
    (root / "pinpoint_licensed.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="is no whole parquet file; fetch it again from github.com/pinterest"):
        opened(root)


@pytest.mark.slow
def test_the_real_files_hold_what_their_authors_say(real: Callable) -> None:
    suite = opened(real("pinpoint"))
    (task,) = suite.tasks
    assert (len(task.queries), len(task.gallery)) == (7635, 109_600)
    assert sum(len(items[0].images) == 2 for items in task.queries) == 1006
    assert sum(map(len, task.views[0].targets)) / 7635 == pytest.approx(9.1, abs=0.2)
    assert len({items[0].images for items in task.queries}) == 1260
