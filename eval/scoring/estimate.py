"""Estimates, made of one value a query: a percentage, its hits, its 95 % interval, and what hangs on ties."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .metrics import Metric
from .suite import Mean

RESAMPLES = 1000
BLOCK_RESAMPLES = 100  # random samples drawn at once, which bounds the memory
INTERVAL = (2.5, 97.5)  # percentiles
_SEED = 0  # the same draws in every run, so that the intervals of two runs can be set side by side


@dataclass(frozen=True)
class Estimate:
    """One reported number.

    Attributes:
        percent: 100 * mean of the values, in the official scorer's arithmetic.
        low, high: 95 % interval, percentiles of RESAMPLES bootstrap means over the queries (seeded).
        queries: how many; None for a mean of estimates.
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
        """Return plain values for JSON, what does not apply left out."""
        fields = ("percent", "hits", "queries", "low", "high", "tied")
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}


def estimate(metric: Metric, values: np.ndarray, tied: np.ndarray, samples: np.ndarray) -> Estimate:
    """Return the estimate of a metric.

    Args:
        metric: gives the mean.
        values: [Q] float64, one a query, in [0, 1].
        tied: [Q] bool, queries that hang on the order of equal scores.
        samples: [B] float64, bootstrap means of the values.
    """
    low, high = (100 * np.percentile(samples, INTERVAL)).tolist()
    hits = int(values.sum()) if metric.counts else None
    return Estimate(100 * metric.mean(values), low, high, len(values), hits, int(tied.sum()))


def resamples(values: np.ndarray, stream: str) -> np.ndarray:
    """Return the bootstrap means [B, M] float64 of values [Q, M] over the queries of a task.

    The same queries are drawn for every metric and in every run; `stream`, the task's name, keeps tasks independent.
    """
    return bootstrap_means(values, np.random.default_rng([_SEED, zlib.crc32(stream.encode())]))


def bootstrap_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return means [B, M] of values [Q, M] over queries drawn with replacement, the same ones for every column."""
    count = len(values)
    # How often each query is drawn is all that a mean needs: one matrix product a block, no list of drawn queries.
    draws = (
        rng.multinomial(count, np.full(count, 1 / count), size=BLOCK_RESAMPLES)
        for _ in range(RESAMPLES // BLOCK_RESAMPLES)
    )
    return np.concatenate([block @ values for block in draws]) / count


def means(wanted: tuple[Mean, ...], estimates: Mapping[str, tuple[Estimate, np.ndarray]]) -> dict[str, Estimate]:
    """Return means over estimates, which are given by name with their bootstrap means [B].

    A mean's own samples are the means of its parts' samples, number by number: what was drawn together, as the metrics
    of one task are, stays together, so that the interval knows how they move with each other.
    """
    known = dict(estimates)
    for mean in wanted:
        parts = [known[part] for part in mean.parts]
        samples = np.mean([sample for _, sample in parts], axis=0)
        low, high = (100 * np.percentile(samples, INTERVAL)).tolist()
        known[mean.name] = Estimate(float(np.mean([part.percent for part, _ in parts])), low, high), samples
    return {mean.name: known[mean.name][0] for mean in wanted}
