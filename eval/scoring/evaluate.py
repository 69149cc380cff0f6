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

from mllm_embed.encode.encoder import PromptedEncoder
from mllm_embed.errors import DataError
from mllm_embed.inputs.prompts import PromptSet
from mllm_embed.types import Document, Item
from mllm_embed.vectors.fusion import edited

from .score import Result, Ties, Vectors, need_labels, score
from .suite import Suite, Task

BASELINES = {
    "image only": "the reference picture, encoded as a gallery picture is",
    "text only": "the instruction, encoded with the text prompt",
    "sum": "image only + text only, normalised",
}
_GALLERY = "gallery"


def evaluate(
    embedder: PromptedEncoder,
    suite: Suite,
    *,
    batch_size: int = 32,
    progress: bool | None = None,
    ties: Ties = "gallery",
    edit_strength: float = 1.0,
) -> Result:
    """Embed a suite, rank its galleries for every query, and measure.

    Args:
        embedder: an `MLLMEmbedder`, or anything with its `encode`, `prompts` and `with_prompts`.
        suite: from `eval.benchmarks.open_suite`, or `suite_of` for a benchmark made in code.
        batch_size: items encoded at once.
        progress: whether to show a progress bar; None leaves it to the embedder.
        ties: how equal scores are settled.
        edit_strength: how far a composed query goes from its picture, as `fusion.edited`.

    Raises:
        DataError: hidden labels, or vectors with NaN. ImageError: a picture that cannot be read.
    """
    need_labels(suite)
    vectors, spent = embed(embedder, suite, batch_size=batch_size, progress=progress)
    vectors = strengthened(vectors, suite, edit_strength)
    return described(score(suite, vectors, ties, spent), suite, embedder.prompts)


def strengthened(vectors: Mapping[str, Vectors], suite: Suite, strength: float) -> dict[str, Vectors]:
    """The vectors with every composed query's edit made stronger or weaker; 1 changes nothing."""
    return {
        task.name: replace(
            made, rows={**made.rows, task.asked: edited(made.rows[task.asked], made.rows["image only"], strength)}
        )
        if task.composed
        else made
        for task, made in ((task, vectors[task.name]) for task in suite.tasks)
    }


def described(result: Result, suite: Suite, prompts: PromptSet) -> Result:
    """The result with the prompts that its vectors were made through, and what its baselines are, in the protocol."""
    asked = {task.name: dict(task.prompts) for task in suite.tasks if task.prompts}
    more: dict[str, Any] = {"prompts": prompts.to_dict(), "pictures": suite.pictures(), **BASELINES}
    return replace(result, protocol={**result.protocol, **more, **({"prompts by task": asked} if asked else {})})


def embed(
    embedder: PromptedEncoder, suite: Suite, *, batch_size: int = 32, progress: bool | None = None
) -> tuple[dict[str, Vectors], dict[str, float]]:
    """The vectors of every task, and the seconds they took.

    All that is asked through one prompt set goes through one call, in which the embedder encodes what recurs only once.
    """
    started = time.perf_counter()
    parts = {(task.name, name): groups for task in suite.tasks for name, groups in _items(task, suite).items()}
    prompts = {task.name: _prompts(embedder.prompts, task) for task in suite.tasks}
    asked = [
        (prompts[task].get(item.role, embedder.prompts), item)
        for (task, _), groups in parts.items()
        for group in groups
        for item in group
    ]
    out = _encode(embedder, asked, batch_size, progress)
    rows: dict[str, dict[str, np.ndarray]] = {task.name: {} for task in suite.tasks}
    at = 0
    for (task, name), groups in parts.items():
        sizes = [len(group) for group in groups]
        rows[task][name] = _averaged(out[at : at + sum(sizes)], sizes)
        at += sum(sizes)
    vectors = {task.name: _vectors(rows, _owner(task, suite), task) for task in suite.tasks}
    return vectors, {"embedding seconds": time.perf_counter() - started}


def _encode(
    embedder: PromptedEncoder, asked: Sequence[tuple[PromptSet, Item]], batch_size: int, progress: bool | None
) -> np.ndarray:
    """Vectors [N, D] float32 of items, each asked through its prompts."""
    out: np.ndarray | None = None
    for prompts in dict.fromkeys(prompts for prompts, _ in asked):
        places = [at for at, (wanted, _) in enumerate(asked) if wanted == prompts]
        model = embedder if prompts == embedder.prompts else embedder.with_prompts(prompts)
        found = model.encode([asked[at][1] for at in places], batch_size=batch_size, show_progress=progress)
        if len(places) == len(asked):
            return np.asarray(found, dtype=np.float32)  # nothing to put together: no second copy of a large gallery
        out = np.empty((len(asked), found.shape[1]), np.float32) if out is None else out
        out[places] = found
    if out is None:
        raise DataError("the suite has no tasks: there is nothing to embed")
    return out


def _items(task: Task, suite: Suite) -> dict[str, Sequence[Sequence[Item]]]:
    """What is encoded for a task, by row: the items of each entry are averaged to one vector."""
    items = items_of(task)
    return {_GALLERY: [(item,) for item in task.gallery], **items} if _owner(task, suite) is task else items


def items_of(task: Task) -> dict[str, Sequence[Sequence[Item]]]:
    """What is encoded of a task's queries, by row of its table; the sum is made of the others."""
    items: dict[str, Sequence[Sequence[Item]]] = {task.asked: task.queries}
    if task.composed:
        items["image only"] = [(Document(image=group[0].image),) for group in task.queries]
        items["text only"] = [tuple(_words(item) for item in group) for group in task.queries]
    return items


def _owner(task: Task, suite: Suite) -> Task:
    """The first task with the same gallery, which is encoded once for all of them."""
    return next(other for other in suite.tasks if other.gallery is task.gallery)


def _vectors(rows: Mapping[str, Mapping[str, np.ndarray]], owner: Task, task: Task) -> Vectors:
    own = {name: row for name, row in rows[task.name].items() if name != _GALLERY}
    if task.composed:
        own["sum"] = _unit(own["image only"] + own["text only"])
    return Vectors(rows[owner.name][_GALLERY], own)


def _words(item: Item) -> Item:
    """The instruction alone; the picture where there is none."""
    return Document(text=item.words) if item.words is not None else Document(image=item.image)


def _prompts(model: PromptSet, task: Task) -> dict[str, PromptSet]:
    """The prompt set for every role that the task words itself."""
    own = replace(model, name=f"{model.name}, in words of the benchmark", **task.prompts) if task.prompts else model
    return dict.fromkeys(task.prompts, own)


def _averaged(vectors: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    if max(sizes) == 1:
        return vectors
    starts = np.cumsum([0, *sizes[:-1]])
    return _unit(np.add.reduceat(vectors, starts, axis=0))


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(np.float32).tiny)
