"""Suites of a model that makes several vectors an input: embedded, and measured by MaxSim as others are by cosine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from mllm_embed.encode.encoder import PromptedEncoder, several_of
from mllm_embed.encode.execution import NOT_OF_SEVERAL
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.types import Item
from mllm_embed.vectors.maxsim import Allowed, maxsim, ranks_by_scores, top_by_scores
from mllm_embed.vectors.multi import MultiVectors
from mllm_embed.vectors.ranking import TargetRanks

from ..asking import AskedSuite, AskedTask
from ..composition import IMAGE_ONLY, SUM, TEXT_ONLY
from ..result import MeasuredTask, Result
from ..score import ANSWERS, TIES, RankedView, Ties, measure, result_of
from ..suite import Suite, Task, View
from .entries import GALLERY, by_prompts, gallery_owner, rows_of

SCORES = (
    "MaxSim: the mean over a query's vectors of the largest inner product with one of the gallery item's, of the "
    "float32 vectors in float64, rounded to float32"
)
TOGETHER = {
    SUM: "the vectors of image only and of text only as one query",
    "several items": "a query asked in several ways has the vectors of all of them",
}
_SCORES = 1 << 26  # float32 at a time
Rows = dict[str, dict[str, MultiVectors]]
"""By task and row of its table, the gallery among them."""


def evaluate_multi(
    embedder: PromptedEncoder, suite: Suite, asked: AskedSuite, batch_size: int, progress: bool | None, ties: Ties,
    pool_factor: int = 1,
) -> Result:  # fmt: skip
    """Embed a suite of single turns and measure it; arguments as of `evaluate`. All vectors are held, and 256 MB of
    scores with a gallery at a time.

    Raises ConfigError for sessions, whose rules go on from a mixture of single vectors, and DataError for a query that
    avoids something.
    """
    if suite.turns:
        raise ConfigError(
            f"{suite.title} has sessions, whose rules mix single vectors, and this model makes one a token (pooling "
            "multi); take a model of single vectors"
        )
    _check_nothing_avoided(suite)
    started = time.perf_counter()
    made = _embedded(embedder, suite, asked, batch_size, progress, pool_factor)
    spent = {"embedding seconds": time.perf_counter() - started}
    started = time.perf_counter()
    galleries = {task.name: made[gallery_owner(task, suite).name][GALLERY] for task in suite.tasks}
    with _bar(made, galleries, progress) as bar:
        measured = {
            task.name: _measured(task, made[task.name], galleries[task.name], ties, bar) for task in suite.tasks
        }
    stored = {id(own): own for own in galleries.values()}.values()
    queries = [own for rows in made.values() for name, own in rows.items() if name != GALLERY]
    spent |= {
        "ranking seconds": time.perf_counter() - started,
        "index bytes": sum(own.nbytes for own in stored),
        "query bytes": sum(own.nbytes for own in queries),
    }
    counts = sum(len(own.values) for own in stored) / sum(map(len, stored))
    rules = {"ties": TIES[ties], "scores": SCORES, "vectors": f"{counts:.1f} a gallery item, as float32"}
    if pool_factor > 1:
        rules["pool factor"] = f"{pool_factor} near vectors of a gallery item become their mean"
    return result_of(suite, measured, rules, spent)


def _embedded(
    embedder: PromptedEncoder, suite: Suite, asked: AskedSuite, batch_size: int, progress: bool | None, pool_factor: int
) -> Rows:
    rows = rows_of(suite)
    items = [(asked.tasks[row.task.name], item) for row in rows for entry in row.entries for item in entry]
    encoded, start = _encoded(embedder, items, batch_size, progress, pool_factor), 0
    made: Rows = {task.name: {} for task in suite.tasks}
    for row in rows:
        sizes = [len(entry) for entry in row.entries]
        end = start + sum(sizes)
        made[row.task.name][row.name] = encoded.take(range(start, end)).united(sizes)
        start = end
    for own in made.values():
        if IMAGE_ONLY in own:
            own[SUM] = _together(own[IMAGE_ONLY], own[TEXT_ONLY])
    return made


def _encoded(
    embedder: PromptedEncoder, items: Sequence[tuple[AskedTask, Item]], batch_size: int, progress: bool | None,
    pool_factor: int,
) -> MultiVectors:  # fmt: skip
    """Return the vectors of items, each asked as its task is, in their order."""
    rows, width = [np.empty((0, 0), np.float32)] * len(items), 0
    for asked in by_prompts(embedder, items):
        found = several_of(
            asked.model, asked.items, batch_size=batch_size, show_progress=progress, pool_factor=pool_factor
        )
        width = found.values.shape[1]
        for place, own in zip(asked.places, found, strict=True):
            rows[place] = own
    return MultiVectors.of(rows, width)


def _together(one: MultiVectors, other: MultiVectors) -> MultiVectors:
    both = [np.concatenate(pair) for pair in zip(one, other, strict=True)]
    return MultiVectors.of(both, one.values.shape[1])


def _check_nothing_avoided(suite: Suite) -> None:
    """Raise DataError for a query that avoids something, which is taken from a single vector."""
    for task in suite.tasks:
        for name, entry in zip(task.query_ids, task.queries, strict=True):
            if any(item.avoid is not None for item in entry):
                raise DataError(
                    f"{suite.title}: the query {name} avoids something, {NOT_OF_SEVERAL}; leave its `avoid` out, or "
                    "take a model of single vectors"
                )


def _bar(made: Rows, galleries: Mapping[str, MultiVectors], progress: bool | None) -> tqdm:
    """Return a bar of the pairs that are scored."""
    pairs = sum(
        len(own) * len(galleries[task]) for task, rows in made.items() for row, own in rows.items() if row != GALLERY
    )
    hide = None if progress is None else not progress
    return tqdm(total=pairs, desc="scoring", unit="pair", unit_scale=True, disable=hide, mininterval=1)


def _measured(
    task: Task, rows: Mapping[str, MultiVectors], gallery: MultiVectors, ties: Ties, bar: tqdm
) -> MeasuredTask:
    ranks: dict[str, list[RankedView]] = {}
    answers: dict[str, np.ndarray] = {}
    for row, queries in rows.items():
        if row != GALLERY:
            ranks[row], answers[row] = _ranked(task, queries, gallery, bar)
    return measure(task, ranks, ties, answers, gallery.values.shape[1])


def _ranked(task: Task, queries: MultiVectors, gallery: MultiVectors, bar: tqdm) -> tuple[list[RankedView], np.ndarray]:
    """Return the ranks of a row's targets in each view of its task, and the first answers: some queries at a time."""
    allowed = [_takes_part(view, task) for view in task.views]
    ranks: list[list[TargetRanks]] = [[] for _ in task.views]
    answers = []
    step = max(1, _SCORES // len(gallery))
    for first in range(0, len(queries), step):
        some = range(first, min(first + step, len(queries)))
        scores = maxsim(queries.take(some), gallery, seen=bar.update)
        for view, may, found in zip(task.views, allowed, ranks, strict=True):
            found.append(ranks_by_scores(scores, [view.targets[query] for query in some], _from(may, first)))
        answers.append(top_by_scores(scores, ANSWERS, _from(allowed[0], first)))
    joined = [(view, TargetRanks.joined(found)) for view, found in zip(task.views, ranks, strict=True)]
    return joined, np.concatenate(answers)


def _from(allowed: Allowed, first: int) -> Allowed:
    """Return the same of queries that are numbered from `first` on."""
    return lambda query: allowed(first + query)


def _takes_part(view: View, task: Task) -> Allowed:
    """Return what tells which of a task's gallery take part in each query's ranking."""
    every, candidates, exclude = np.arange(len(task.gallery)), view.candidates, view.exclude
    if candidates is not None:
        return lambda query: np.asarray(candidates[query], np.int64)
    if exclude is not None:
        return lambda query: np.delete(every, list(exclude[query]))
    return lambda _: every


def with_rules(result: Result) -> Result:
    """Return a result whose protocol says what stands in the place of means of vectors."""
    return replace(result, protocol={**result.protocol, **TOGETHER})
