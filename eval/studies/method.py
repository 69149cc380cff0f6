"""A query-time method: a function from what is known of a task to a ranking, with its settings as keywords."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mllm_embed.named_function import NamedFunction
from mllm_embed.vectors.ranking import TargetRanks

from ..scoring.composition import IMAGE_ONLY, TEXT_ONLY
from ..scoring.score import Vectors, answers_of, ranks_of
from ..scoring.suite import Task, View

if TYPE_CHECKING:
    from .cached_reranker import CachedReranker
    from .llm_texts import LLMTexts

Rescore = Callable[[np.ndarray], np.ndarray]
"""Answers [Q, k] int64 (gallery positions, -1 where there are fewer) -> their new scores [Q, k]."""


class MethodContext:
    """Everything that methods work with on one task.

    Attributes:
        gallery: [N, D] float32 of unit length.
        llm_texts: what the language model writes of pictures, as vectors; made when they are asked for.
        reranker: judges answers; None where none was given.
        used: which of the query's vectors have been asked for, by row of the table.
    """

    def __init__(self, task: Task, vectors: Vectors, llm_texts: LLMTexts, reranker: CachedReranker | None = None):
        """Take the vectors of a task, and texts of the same task."""
        self.task, self.gallery, self.llm_texts, self.reranker = task, vectors.gallery, llm_texts, reranker
        self.used: set[str] = set()
        self._rows = vectors.rows

    @property
    def composed(self) -> np.ndarray:
        """Picture and instruction [Q, D] float32 of unit length."""
        return self._row(self.task.query_kind)

    @property
    def image(self) -> np.ndarray:
        """The picture alone [Q, D] float32 of unit length."""
        return self._row(IMAGE_ONLY)

    @property
    def text(self) -> np.ndarray:
        """The instruction alone [Q, D] float32 of unit length."""
        return self._row(TEXT_ONLY)

    def _row(self, name: str) -> np.ndarray:
        self.used.add(name)
        return self._rows[name]


@dataclass(frozen=True)
class Ranking:
    """The gallery by inner product with each query, the first `depth` answers then in the order of `rescore`.

    Attributes:
        queries, gallery: [Q, D] and [N, D] float32; inner products need no unit length.
        depth: answers that are scored again; the rest stays as and where it is.
        rescore: gives their new scores; equal ones keep the order that they came in.
    """

    queries: np.ndarray
    gallery: np.ndarray
    depth: int = 0
    rescore: Rescore | None = field(default=None, repr=False)

    def ranks(self, view: View) -> TargetRanks:
        """Return the ranks of a view's targets."""
        plain = ranks_of(view, self.queries, self.gallery)
        if not self.depth:
            return plain
        first = self.answers(view, self.depth)
        ranks = []
        for row, targets, known in zip(first, view.targets, plain.gallery, strict=True):
            places = [_place(row, at, rank) for at, rank in zip(targets, known, strict=True)]
            ranks.append(np.array(places, dtype=np.int64))
        # Scoring again settles ties by the order that answers came in, so that all three rules give the same ranks.
        return TargetRanks(ranks, ranks, ranks)

    def answers(self, view: View, k: int) -> np.ndarray:
        """Return the best k answers of a view: gallery positions [Q, <= k] int64, -1 where there are fewer."""
        # all that are scored again, even where fewer are asked for: any of them may come first
        found = answers_of(view, self.queries, self.gallery, max(k, self.depth))
        if self.depth and self.rescore is not None:
            first = found[:, : self.depth]
            scores = np.where(first < 0, -np.inf, self.rescore(first))
            order = np.argsort(-scores, axis=1, kind="stable")  # equal scores stay in the order they came in
            found = np.concatenate([np.take_along_axis(first, order, axis=1), found[:, self.depth :]], axis=1)
        return found[:, :k]


def _place(answers: np.ndarray, target: int, rank: int) -> int:
    """Return the rank of a target among rescored answers, or as it was where it is none of them."""
    at = np.flatnonzero(answers == target)
    return int(at[0]) + 1 if len(at) else rank


@dataclass(frozen=True)
class Method(NamedFunction):
    """A method of `eval.methods`: each module there has one, called METHOD.

    Attributes:
        run: `run(context, **settings)`; the defaults are those of its signature.
        source: paper, equation, or code that it follows.
        needs: what it takes beyond the plain query, in a few words.
        neutral: settings by which it is the plain query; None for a baseline, which has none.
        grid: setting -> values to choose from on a validation set.
        given: settings that take the place of its defaults, and are not chosen.
    """

    needs: str
    neutral: Mapping[str, float] | None = None
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, float]:
        """The settings and their defaults, or what was given in their place."""
        return {**super().defaults, **self.given}

    def with_settings(self, given: Mapping[str, float]) -> Method:
        """Return the method with settings given in place of its defaults and of its grid's values.

        Raises ConfigError for a setting that it does not have.
        """
        self.check(given, self.name)
        grid = {name: values for name, values in self.grid.items() if name not in given}
        return replace(self, grid=grid, given={**self.given, **given})
