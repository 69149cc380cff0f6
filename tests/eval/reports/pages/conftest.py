"""A benchmark with all that a page must bear, scored by the real code: hostile words, bad pictures, candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browsing.chromium import chromium
from browsing.tab import ODD, picture
from eval.scoring.metrics import MRR, Metric, recall, recall_at_k
from eval.scoring.result import Result
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite, Task, View
from mllm_embed.types import Document, Query

HOSTILE = [
    "</script><script>document.title='broken'</script>",
    '<img src="http://evil.example/x.png" onerror="document.title=1">',
    "<!--<script> & 'quotes\" https://evil.example/?a=1&b=2",
    "\\u003c ${document.title='broken'} `",
    "make\nit\tred \u2028 and 🦊",
    "__proto__",
]
GALLERY, QUERIES = 16, 20
ROWS = {"composed": 0.6, "image only": 1.2, "text only": 1.6, "sum": 1.0}  # how much noise their vectors have


def _vectors(task: Task, rows: dict[str, float], seed: int) -> Vectors:
    rng = np.random.default_rng(seed)
    gallery = np.random.default_rng(9).standard_normal((len(task.gallery), 12)).astype(np.float32)
    wanted = gallery[[row[0] if row else 0 for row in task.views[0].targets]]
    noisy = {name: wanted + noise * rng.standard_normal(wanted.shape) for name, noise in rows.items()}
    return Vectors(gallery, {name: queries.astype(np.float32) for name, queries in noisy.items()})


def _composed(folder: Path) -> Task:
    broken, missing = folder / "broken.png", folder / "missing.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    documents = [Document(image=picture(at)) for at in range(GALLERY)]
    documents[3], documents[4] = Document(image=broken), Document(image=missing)
    documents[5] = Document(image=[picture(5), picture(50)], text=HOSTILE[0])
    queries = []
    for at in range(QUERIES):
        reference: Any = [picture(at), picture(at + 60)] if at == 1 else broken if at == 2 else picture(at)
        words = HOSTILE[at] if at < len(HOSTILE) else f"number {at} of the {'snow' if at % 2 else 'sand'}"
        queries.append((Query(image=reference, instruction=words),))
    # two wordings of one query, as FashionIQ has them
    queries[7] = (Query(image=picture(7), instruction="one"), Query(image=picture(7), instruction="other"))
    targets = [
        [(3 * at) % GALLERY, (3 * at + 7) % GALLERY] if at % 4 == 0 else [(3 * at) % GALLERY] for at in range(QUERIES)
    ]
    targets[9] = []
    exclude = [[(3 * at + 1) % GALLERY] for at in range(QUERIES)]
    return Task(
        name="",
        gallery_ids=[*ODD, *(f"entry-{at}" for at in range(len(ODD), GALLERY))],
        gallery=documents,
        query_ids=[f"q{at}" if at != 6 else ODD[1] for at in range(QUERIES)],
        queries=queries,
        views=(View((*recall((1, 10)), MRR), targets, exclude=exclude),),
        groups=[(("colour",), ("<b>size</b>", "colour"), ())[at % 3] for at in range(QUERIES)],
        by_group=("R@1",),
    )


def _missed(ranks: Sequence[np.ndarray]) -> np.ndarray:
    return 1 - recall_at_k(ranks, 1)


def _metrics() -> tuple[Metric, ...]:
    """R@1, its opposite, of which less is better, and what says something of all queries together alone."""
    return (*recall((1,)), Metric("missed@1", _missed, lower=True), Metric("all missed", _missed, whole=True))


def _others() -> tuple[Task, ...]:
    """A gallery of texts that pictures ask for, and queries that have six candidates each."""
    texts = [f"text {at} {HOSTILE[0]}" for at in range(8)]
    asking: list[tuple[Query]] = [(Query(image=picture(at)),) for at in range(4)]
    to_text = Task(
        name="image-to-text",
        gallery_ids=[f"t{at}" for at in range(8)],
        gallery=[Document(text=text) for text in texts],
        query_ids=[f"p{at}" for at in range(4)],
        queries=asking,
        views=(View(recall((1,)), [[at, at + 4] for at in range(4)]),),
    )
    few = Task(
        name="few",
        gallery_ids=[f"c{at}" for at in range(20)],
        gallery=[Document(image=picture(at)) for at in range(20)],
        query_ids=[f"q{at}" for at in range(3)],
        queries=[(Query(image=picture(at), instruction="bus"),) for at in range(3)],
        views=(View(_metrics(), [[at] for at in range(3)], candidates=[range(at, at + 6) for at in range(3)]),),
    )
    return to_text, few


@pytest.fixture(scope="package")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("pictures")
    return Suite("hostile", "", {}, (_composed(folder), *_others()), protocol={"<i>rule</i>": HOSTILE[0]})


@pytest.fixture(scope="package")
def scored(suite: Suite) -> Callable[[int], Result]:
    """`scored(seed)`: the suite with vectors of a seed."""

    @cache
    def make(seed: int) -> Result:
        own = {
            task.name: _vectors(task, ROWS if task.composed else {task.query_kind: 0.5}, seed) for task in suite.tasks
        }
        return score(suite, own)

    return make


@pytest.fixture(scope="package")
def result(scored: Callable[[int], Result]) -> Result:
    return scored(0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


def noise_picture(seed: int, side: int = 300) -> Image.Image:
    """Return a picture that no format makes small."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))
