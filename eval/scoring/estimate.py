"""Estimates, made of one value a query: a percentage, its hits, its 95 % interval, and what hangs on ties.

Queries that share their reference picture are no independent draws: what a model makes of that picture is in all of
them. So pictures are drawn, each with all of its queries (the cluster bootstrap: Davison and Hinkley, Bootstrap Methods
and their Application, 1997, section 3.8; Field and Welsh, J. R. Stat. Soc. B 69, 2007). Where no two queries share one
that is the plain bootstrap over the queries, number by number.
"""

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
INTERVAL_RULE = (
    f"95 %, percentiles of {RESAMPLES} bootstrap samples of the reference pictures, each with all of its queries; "
    "of the queries where none shares its picture, none has one, or all have the same one"
)
_SEED = 0  # the same draws in every run, so that the intervals of two runs can be set side by side


@dataclass(frozen=True)
class Estimate:
    """One reported number.

    Attributes:
        percent: 100 * mean of the values, in the official scorer's arithmetic.
        low, high: 95 % interval, percentiles of RESAMPLES bootstrap means (seeded), as INTERVAL_RULE says.
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


def bounded(low: float, high: float) -> tuple[float, float]:
    """Return an interval in percent without what no percentage can be: Student's t knows no bounds."""
    low, high = np.clip((low, high), 0, 100).tolist()
    return low, high


def resamples(values: np.ndarray, stream: str, references: np.ndarray | None = None) -> np.ndarray:
    """Return the bootstrap means [B, M] float64 of values [Q, M] over the queries of a task.

    The same queries are drawn for every metric and in every run; `stream`, the task's name, keeps tasks independent.
    `references`: as of `bootstrap_means`.
    """
    return bootstrap_means(values, np.random.default_rng([_SEED, zlib.crc32(stream.encode())]), references)


def bootstrap_means(values: np.ndarray, rng: np.random.Generator, references: np.ndarray | None = None) -> np.ndarray:
    """Return means [B, M] of values [Q, M] over pictures drawn with replacement, the same ones for every column.

    Args:
        values: one row a query.
        rng: draws.
        references: [Q] int, equal for queries that share a reference picture; None where none do.
    """
    sums, sizes = by_reference(values, references)
    count = len(sums)
    # How often each picture is drawn is all that a mean needs: one matrix product a block, no list of drawn queries.
    draws = (
        rng.multinomial(count, np.full(count, 1 / count), size=BLOCK_RESAMPLES)
        for _ in range(RESAMPLES // BLOCK_RESAMPLES)
    )
    return np.concatenate([(block @ sums) / (block @ sizes)[:, None] for block in draws])


def by_reference(values: np.ndarray, references: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums [G, M] of values [Q, M] over the queries of each picture, and how many those are [G].

    Each query stands by itself where `references` is None, and where all have one picture, which alone would tell
    nothing of how figures vary.
    """
    if references is None or np.ptp(references) == 0:
        return values, np.ones(len(values))
    pictures, place, sizes = np.unique(references, return_inverse=True, return_counts=True)
    sums = np.zeros((len(pictures), values.shape[1]))
    np.add.at(sums, place, values)
    return sums, sizes.astype(np.float64)


Sampled = tuple[Estimate, np.ndarray]
"""An estimate, and the bootstrap means [B] that its interval is made of."""


def means(wanted: tuple[Mean, ...], estimates: Mapping[str, Sampled]) -> dict[str, Sampled]:
    """Return means over estimates, which are given by name; both with their bootstrap means [B].

    A mean's own samples are the means of its parts' samples, number by number: what was drawn together, as the metrics
    of one task are, stays together, so that the interval knows how they move with each other.
    """
    known = dict(estimates)
    for mean in wanted:
        parts = [known[part] for part in mean.parts]
        samples = np.mean([sample for _, sample in parts], axis=0)
        low, high = (100 * np.percentile(samples, INTERVAL)).tolist()
        known[mean.name] = Estimate(float(np.mean([part.percent for part, _ in parts])), low, high), samples
    return {mean.name: known[mean.name] for mean in wanted}
