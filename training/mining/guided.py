"""Mining with a guide: another embedder that says which candidates are probably right answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..false_negatives.guide import GuideRule, without_nearer
from .negatives import positive_similarity
from .questions import Questions

if TYPE_CHECKING:
    from .mine import QuestionVectors


@dataclass(frozen=True)
class MiningGuide:
    """A guide's vectors of the questions, and its rule.

    Args:
        questions: what is mined.
        vectors: the guide's.
        rule: a candidate above its limit is left out; where a query has several right answers, of their mean cosine.
    """

    questions: Questions
    vectors: QuestionVectors
    rule: GuideRule

    @cached_property
    def _positive(self) -> np.ndarray:
        """[Q] float32: the guide's cosine of each query and its positives; NaN where it cannot read one of them, than
        which nothing is nearer."""
        found = positive_similarity(self.vectors.queries, self.vectors.gallery, self.questions)
        unread = np.isin(self.questions.positive, list(self.vectors.unreadable_gallery))
        found[self.questions.query[unread]] = np.nan
        found[list(self.vectors.unreadable_queries)] = np.nan
        return found

    def left(self, part: slice, places: np.ndarray) -> np.ndarray:
        """Return `places` [q, K] of the queries of a part with -1 where the guide finds a candidate too near."""
        found = without_nearer(
            self.vectors.queries[part], self.vectors.gallery, places, self._positive[part], self.rule
        )
        blind = np.isin(places, list(self.vectors.unreadable_gallery))  # whose vectors are 0, and say nothing
        return np.where(blind, places, found)
