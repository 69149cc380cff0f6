"""Evaluate an embedder on a benchmark: composed queries beside their two halves alone and their sum.

The three baselines rank the same gallery under the same rules, so that nobody mistakes a shortcut for a result: a
benchmark that the picture or the instruction alone can solve says little about composing the two.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mllm_embed.encode.encoder import PromptedEncoder, check_single, check_unit_length, is_multi
from mllm_embed.errors import ConfigError
from mllm_embed.types import Item
from mllm_embed.vectors.fusion import edited
from mllm_embed.vectors.unit import unit

from .asking import AskedSuite, AskedTask, ask
from .composition import IMAGE_ONLY, SUM, TEXT_ONLY
from .embedding.entries import GALLERY, NOT_AVOIDED, avoids, by_prompts, gallery_owner, rows_of
from .embedding.multi import evaluate_multi, with_rules
from .result import Result
from .score import DEFAULT_TIES, Ties, Vectors, need_labels, score
from .sessions.carried import carried, carried_protocol
from .sessions.gains import with_gains
from .suite import Suite, Task

BASELINES = {
    IMAGE_ONLY: "the reference picture alone, as a query",
    TEXT_ONLY: "the instruction alone, as a query of words",
    SUM: "image only + text only, normalised",
}


def evaluate(
    embedder: PromptedEncoder,
    suite: Suite,
    *,
    batch_size: int = 32,
    progress: bool | None = None,
    ties: Ties = DEFAULT_TIES,
    edit_strength: float = 1.0,
    pool_factor: int = 1,
    asked: AskedSuite | None = None,
) -> Result:
    """Embed a suite, rank its galleries for every query, and measure; `mllm-embed-eval run` does the same.

    Args:
        embedder: an `MLLMEmbedder`, or anything with its `encode`, `prompts` and `with_prompts`.
        suite: from `eval.benchmarks.open_suite`, or `suite_of` for a benchmark made in code.
        batch_size: items encoded at once.
        progress: whether to show a progress bar; None leaves it to the embedder.
        ties: how equal scores are settled, a key of `score.TIES`.
        edit_strength: how far a composed query goes from its picture, as `fusion.edited`.
        pool_factor: how many near vectors of a gallery item become one, of a model that makes several an input.
        asked: from `asking.ask`, which takes an instruction of your own; by default what it says without one.

    Raises:
        DataError: hidden labels, or vectors with NaN. ConfigError: an edit strength where no query is composed; what
        `ask` raises.
        ImageError: a picture that cannot be read.
    """
    result, _ = evaluate_with_vectors(
        embedder,
        suite,
        batch_size=batch_size,
        progress=progress,
        ties=ties,
        edit_strength=edit_strength,
        pool_factor=pool_factor,
        asked=asked,
    )
    return result


def evaluate_with_vectors(
    embedder: PromptedEncoder,
    suite: Suite,
    *,
    batch_size: int = 32,
    progress: bool | None = None,
    ties: Ties = DEFAULT_TIES,
    edit_strength: float = 1.0,
    pool_factor: int = 1,
    asked: AskedSuite | None = None,
) -> tuple[Result, dict[str, Vectors]]:
    """Do as `evaluate` does; return the vectors of every task, by its name, as well as the result.

    Of a model that makes several vectors an input there are none to return.
    """
    check_evaluable(suite, edit_strength)
    asked = asked or ask(embedder, suite)
    if is_multi(embedder):
        if edit_strength != 1:
            check_single(embedder, f"edit strength {edit_strength:g}")
        result = evaluate_multi(embedder, suite, asked, batch_size, progress, ties, pool_factor)
        return with_rules(with_protocol(result, suite, asked)), {}
    if pool_factor != 1:
        raise ConfigError(
            f"a pool factor of {pool_factor} is of vectors a token, and this model makes one vector of an input; leave "
            "it out"
        )
    vectors, spent = embed(embedder, suite, batch_size=batch_size, progress=progress, asked=asked)
    vectors = with_edit_strength(vectors, suite, edit_strength)
    started = time.perf_counter()
    vectors = carried(suite, vectors, asked, lambda items: encode(embedder, items, batch_size, progress), edit_strength)
    spent["embedding seconds"] += time.perf_counter() - started
    result = with_protocol(score(suite, vectors, ties, spent), suite, asked, edit_strength)
    result = with_gains(result, suite)
    return replace(result, protocol={**result.protocol, **carried_protocol(suite)}), vectors


def check_evaluable(suite: Suite, edit_strength: float = 1.0) -> None:
    """Raise what `evaluate` would raise of the suite and the edit strength, before a model is loaded."""
    need_labels(suite)
    if edit_strength != 1 and not any(task.composed for task in suite.tasks):
        raise ConfigError(
            f"edit strength {edit_strength:g}: {suite.title} has no composed queries, and no edit to make stronger"
        )


def with_edit_strength(vectors: Mapping[str, Vectors], suite: Suite, strength: float) -> dict[str, Vectors]:
    """Return the vectors with every composed query's edit made stronger or weaker; 1 changes nothing."""
    changed = dict(vectors)
    for task in suite.tasks:
        if task.composed:
            rows = vectors[task.name].rows
            composed = edited(rows[task.query_kind], rows[IMAGE_ONLY], strength)
            changed[task.name] = replace(vectors[task.name], rows={**rows, task.query_kind: composed})
    return changed


def with_protocol(result: Result, suite: Suite, asked: AskedSuite, edit_strength: float = 1.0) -> Result:
    """Return the result with all in its protocol that only the maker of the vectors knows.

    That is the prompts they were made through, the pictures' sizes, what the baselines are, and an edit strength.
    """
    protocol: dict[str, Any] = {**result.protocol, **asked.protocol(), "pictures": suite.pictures(), **BASELINES}
    if any(map(avoids, suite.tasks)):
        protocol[NOT_AVOIDED] = "the query as asked, without what it avoids"
    if edit_strength != 1:
        protocol["edit strength"] = edit_strength
    return replace(result, protocol=protocol)


def embed(
    embedder: PromptedEncoder,
    suite: Suite,
    *,
    batch_size: int = 32,
    progress: bool | None = None,
    asked: AskedSuite | None = None,
) -> tuple[dict[str, Vectors], dict[str, float]]:
    """Return the vectors of every task, by its name, and the seconds they took.

    All that is asked through one prompt set goes through one call, in which the embedder encodes what recurs only once.

    Args: as of `evaluate`. Raises DataError for a suite without tasks, ImageError for a picture that cannot be read,
    and what `ask` raises.
    """
    started = time.perf_counter()
    rows = rows_of(suite)
    how = (asked or ask(embedder, suite)).tasks
    items = [(how[row.task.name], item) for row in rows for entry in row.entries for item in entry]
    # one long list for the encoder, which is then cut into the rows again
    check_single(embedder, "this evaluation")
    check_unit_length(embedder, "an evaluation")
    encoded = encode(embedder, items, batch_size, progress)
    made: dict[str, dict[str, np.ndarray]] = {task.name: {} for task in suite.tasks}
    start = 0
    for row in rows:
        sizes = [len(entry) for entry in row.entries]
        end = start + sum(sizes)
        made[row.task.name][row.name] = _averaged(encoded[start:end], sizes)
        start = end
    vectors = {task.name: _vectors(made, gallery_owner(task, suite), task) for task in suite.tasks}
    return vectors, {"embedding seconds": time.perf_counter() - started}


def encode(
    embedder: PromptedEncoder, items: Sequence[tuple[AskedTask, Item]], batch_size: int, progress: bool | None
) -> np.ndarray:
    """Return the vectors [N, D] float32 of items, each asked as its task is. Raises DataError where there are none."""
    parts = by_prompts(embedder, items)
    encoded = np.empty((0, 0), np.float32)
    for number, asked in enumerate(parts):
        part = asked.model.encode(asked.items, batch_size=batch_size, show_progress=progress)
        if len(parts) == 1:
            return np.asarray(part, dtype=np.float32)  # nothing to put together: no second copy of a large gallery
        encoded = encoded if number else np.empty((len(items), part.shape[1]), np.float32)
        encoded[asked.places] = part
    return encoded


def _vectors(made: Mapping[str, Mapping[str, np.ndarray]], owner: Task, task: Task) -> Vectors:
    rows = {name: row for name, row in made[task.name].items() if name != GALLERY}
    if task.composed:
        rows[SUM] = unit(rows[IMAGE_ONLY] + rows[TEXT_ONLY])
    return Vectors(made[owner.name][GALLERY], rows)


def _averaged(vectors: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return the normalised mean of each run of `sizes` rows; a run of one row is left as it is, to the last bit."""
    if max(sizes) == 1:
        return vectors
    # the sum points where the mean does, and only the direction is kept
    starts = np.cumsum([0, *sizes[:-1]])
    return unit(np.add.reduceat(vectors, starts, axis=0))
