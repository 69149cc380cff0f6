"""Percentages and gains with 95 % intervals, of hits that several seeds of training found for the same queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_embed.eval.scoring.estimate import bounded
from mllm_embed.eval.scoring.paired import Difference, paired, seeds_of

Hits = Sequence[np.ndarray]
"""For each seed [Q] of 0 and 1."""


@dataclass(frozen=True)
class Interval:
    """A percentage with its 95 % interval."""

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:.1f} ({self.low:.1f} to {self.high:.1f})"


@dataclass(frozen=True)
class Gain(Interval):
    """A difference in points with its 95 % interval, and the p of the paired randomisation test."""

    p: float

    def __str__(self) -> str:
        return f"{self.points:+.1f} ({self.low:+.1f} to {self.high:+.1f}), p {self.p:.4f}"


def interval(hits: Hits, references: np.ndarray | None = None) -> Interval:
    """Return the mean of hits, its interval over pictures [Q] int and, where there are several, over seeds."""
    found = _of(_mean(hits), [hits], references)
    return Interval(found.points, *bounded(found.low, found.high))


def gain(hits: Hits, others: Hits, references: np.ndarray | None = None) -> Gain:
    """Return by how much the mean of hits is above that of others, of the same queries."""
    found = _of(_mean(hits) - _mean(others), [hits, others], references)
    return Gain(found.points, found.low, found.high, found.p)


def _mean(hits: Hits) -> np.ndarray:
    return np.mean(hits, axis=0)


def _of(values: np.ndarray, runs: Sequence[Hits], references: np.ndarray | None) -> Difference:
    figures = [np.array([[one.mean()] for one in run]) for run in runs]
    (found,) = paired([values[:, None]], [references], seeds_of(figures))
    return found
