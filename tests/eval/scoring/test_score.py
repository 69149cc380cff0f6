"""Ranked lists instead of vectors: measured like vectors, refused when they are too short or wrong."""

from __future__ import annotations

import numpy as np
import pytest

from eval.scoring.metrics import MAP, mean_average_precision, recall
from eval.scoring.rankings import score_rankings
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite, Task, View
from mllm_embed.errors import DataError
from mllm_embed.types import Document
from mllm_embed.vectors.ranking import top_k

GALLERY, QUERIES = 12, 6
RIGHT = [(at, (at + 3) % GALLERY) for at in range(QUERIES)]


def suite(*views: View) -> Suite:
    ids = [f"g{at}" for at in range(GALLERY)]
    asked = [(Document(text=f"q{at}"),) for at in range(QUERIES)]
    task = Task("", ids, [Document(text=name) for name in ids], [f"q{at}" for at in range(QUERIES)], asked, views)
    return Suite("made", "", {}, (task,))


def vectors() -> Vectors:
    rng = np.random.default_rng(0)
    gallery, queries = (rng.standard_normal((count, 6)).astype(np.float32) for count in (GALLERY, QUERIES))
    return Vectors(gallery, {"text": queries})


def rankings(k: int, exclude: list[tuple[int, ...]] | None = None) -> dict[str, list[str]]:
    made = vectors()
    found = top_k(made.rows["text"], made.gallery, k, exclude)[1]
    return {f"q{row}": [f"g{at}" for at in places if at >= 0] for row, places in enumerate(found.tolist())}


def figures(result: object) -> dict[str, tuple]:
    return {name: (f.percent, f.hits, f.low, f.high) for name, f in result.tasks[""].rows["text"].items()}


def test_lists_measure_what_the_vectors_they_come_from_do() -> None:
    left_out = [((at + 5) % GALLERY,) for at in range(QUERIES)]
    few = [sorted({*RIGHT[at], at, (at + 1) % GALLERY}) for at in range(QUERIES)]
    views = (
        View((*recall((1, 5)), *mean_average_precision((5,)), MAP), RIGHT, exclude=left_out),
        View(recall((1, 2), "sub"), [row[:1] for row in RIGHT], candidates=few),
    )
    given = score_rankings(suite(*views[:1]), rankings(GALLERY, left_out))
    assert figures(given) == figures(score(suite(*views[:1]), {"": vectors()}))
    whole = score_rankings(suite(views[1]), rankings(GALLERY))
    assert figures(whole) == figures(score(suite(views[1]), {"": vectors()}))
    assert "ranked lists were given" in given.protocol["scores"]


def test_short_lists_serve_metrics_that_look_no_further() -> None:
    short = suite(View((*recall((1, 5)), *mean_average_precision((5,))), RIGHT))
    assert figures(score_rankings(short, rankings(5))) == figures(score(short, {"": vectors()}))
    with pytest.raises(DataError, match='the ranking of query "q0" has 4 entries; 5 are measured'):
        score_rankings(short, rankings(4))
    with pytest.raises(DataError, match='the ranking of query "q0" has 11 entries; 12 are measured'):
        score_rankings(suite(View((MAP,), RIGHT)), rankings(11))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q1": None}, '"q1" is missing'),
        ({"q9": ["g0"]}, '"q9" is unknown'),
        ({"q1": ["g0", "g99", *"abc"]}, 'the ranking of query "q1" names "g99", which is not in the gallery'),
        ({"q1": ["g0", "g1", "g0", "g2", "g3"]}, 'the ranking of query "q1" names "g0" twice'),
        ({"q1": ["g6", "g1", "g2", "g3", "g4"]}, 'the ranking of query "q1" names a picture that is excluded'),
    ],
)
def test_wrong_lists_are_refused_with_the_query(change: dict, message: str) -> None:
    left_out = [((at + 5) % GALLERY,) for at in range(QUERIES)]
    lists = {**rankings(5, left_out), **change}
    lists = {name: row for name, row in lists.items() if row is not None}
    with pytest.raises(DataError, match=message):
        score_rankings(suite(View(recall((5,)), RIGHT, exclude=left_out)), lists)
