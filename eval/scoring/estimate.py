"""From one value a query to what is reported: a percentage, its hits, its 95 % interval, and what hangs on ties."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .metrics import Metric
from .suite import Mean

RESAMPLES = 1000
BLOCK = 100  # random samples drawn at once, which bounds the memory
_SEED = 0
_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """One reported number.

    Attributes:
        percent: 100 * mean of the values, in the official scorer's arithmetic.
        low, high: 95 % interval, percentiles of RESAMPLES bootstrap means over the queries (seeded).
        queries: how many; None for a mean of figures.
        hits: how many queries count, for recall.
        tied: queries whose value would change if the targets stood first, or last, among equal scores.
    """

    percent: float
    low: float
    high: float
    queries: int | None = None
    hits: int | None = None
    tied: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, what does not apply left out."""
        fields = ("percent", "hits", "queries", "low", "high", "tied")
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}


def estimate(metric: Metric, values: np.ndarray, tied: np.ndarray, samples: np.ndarray) -> Estimate:
    """The figure of values [Q]; tied [Q] marks queries that hang on a tie, samples [B] are bootstrap means."""
    low, high = (100 * np.percentile(samples, _TAILS)).tolist()
    hits = int(values.sum()) if metric.counts else None
    return Estimate(100 * metric.mean(values), low, high, len(values), hits, int(tied.sum()))


def resamples(values: np.ndarray, stream: str) -> np.ndarray:
    """Bootstrap means [B, M] of values [Q, M] over the queries of a task.

    The same queries are drawn for every metric and in every run; `stream`, the task's name, keeps tasks independent.
    """
    return bootstrap_means(values, np.random.default_rng([_SEED, zlib.crc32(stream.encode())]))


def bootstrap_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means [B, M] of values [Q, M] over queries drawn with replacement, the same ones for every column."""
    count = len(values)
    draws = (rng.multinomial(count, np.full(count, 1 / count), size=BLOCK) for _ in range(RESAMPLES // BLOCK))
    return np.concatenate([block @ values for block in draws]) / count


def means(wanted: tuple[Mean, ...], figures: Mapping[str, tuple[Estimate, np.ndarray]]) -> dict[str, Estimate]:
    """The means over figures given by name with their bootstrap means [B], so that what is drawn together stays so."""
    known = dict(figures)
    for mean in wanted:
        parts = [known[part] for part in mean.parts]
        samples = np.mean([sample for _, sample in parts], axis=0)
        low, high = (100 * np.percentile(samples, _TAILS)).tolist()
        known[mean.name] = Estimate(float(np.mean([part.percent for part, _ in parts])), low, high), samples
    return {mean.name: known[mean.name][0] for mean in wanted}
