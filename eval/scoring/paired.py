"""The paired test of whether two runs on the same queries differ by more than chance.

The test is the paired randomisation test (Smucker, Allan and Carterette, CIKM 2007): were both runs equal, each query's
difference could as well have had the other sign. It serves 0/1 metrics and average precision alike. Queries that share
a reference picture keep the sign of one draw, and are drawn together for the interval, as `estimate` says. One is added
to the count and to the number of sign flips, so that p is never 0 (Phipson and Smyth, 2010).

Runs of several seeds are compared by the mean over their seeds, query by query. With other seeds that mean would be
another, by as much as the runs of one model differ from each other: see `Seeds`.

Among many tests some p are small by chance. Holm's step-down method (Scandinavian Journal of Statistics, 1979) corrects
them: what is below 0.05 then is below it by chance in 5 % of such families at most, however its tests hang together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .estimate import BLOCK_RESAMPLES, INTERVAL, bootstrap_means, by_reference

FLIPS = 10_000
_SEED = 0


@dataclass(frozen=True)
class Seeds:
    """How far figures move between the seeds of training, which draws of pictures do not know.

    Attributes:
        errors: [M] standard error of each column, in [0, 1].
        freedom: degrees of freedom of the spread that it is made of.
    """

    errors: np.ndarray
    freedom: int


@dataclass(frozen=True)
class Difference:
    """One run minus another on the same queries, in points; p is two-sided, and `p_holm` the same among others."""

    points: float
    low: float
    high: float
    p: float
    p_holm: float | None = None


References = Sequence[np.ndarray | None]


def paired(
    differences: Sequence[np.ndarray],
    references: References | None = None,
    seeds: Seeds | None = None,
    in_samples: Sequence[np.ndarray] | None = None,
) -> list[Difference]:
    """Return the test for each column of what one run has more than another.

    Args:
        differences: for each task [Q, M] values per query. A column's difference is the sum over tasks of the means
            over their queries, in [0, 1]; pictures are drawn, and signs flipped, within each task, for all columns
            alike.
        references: for each task [Q] int, equal for queries that share a reference picture; None where none do.
        seeds: where the values are means over runs of several seeds; each sample and each flip is then moved by a draw
            of Student's t times the standard error, so that interval and p are over pictures and seeds. Without, they
            say nothing of another seed.
        in_samples: as `differences`, of the same means, what the samples are drawn of in their place: of a mean over
            some queries its linear part, which knows that their number varies from sample to sample.
    """
    parts = list(zip(differences, references or [None] * len(differences), strict=True))
    rng = np.random.default_rng(_SEED)
    observed = np.sum([part.mean(axis=0) for part in differences], axis=0)
    samples = zip(in_samples or differences, references or [None] * len(differences), strict=True)
    drawn = np.sum([bootstrap_means(part, rng, shared) for part, shared in samples], axis=0)
    flipped = np.sum([_flipped(part, rng, shared) for part, shared in parts], axis=0)
    if seeds is not None:
        drawn = drawn + _moved(seeds, len(drawn), rng)
        flipped = flipped + _moved(seeds, len(flipped), rng)
    low, high = np.percentile(drawn, INTERVAL, axis=0)
    as_far = np.abs(flipped) >= np.abs(observed) - 1e-12  # equal sums differ in the last digits, by the order of adding
    p = (1 + as_far.sum(axis=0)) / (FLIPS + 1)
    return [Difference(*row) for row in np.stack([100 * observed, 100 * low, 100 * high, p], axis=1).tolist()]


def corrected(family: Sequence[Difference]) -> list[Difference]:
    """Return the differences with p corrected for their number: the i-th smallest times what is left, never falling."""
    p = np.array([found.p for found in family])
    order = np.argsort(p, kind="stable")
    values = np.empty(len(p))
    values[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [replace(found, p_holm=value) for found, value in zip(family, values.tolist(), strict=True)]


def holm_note(count: int, what: str) -> str:
    """Return a sentence for a table of `count` tests: what its corrected p is, and that its intervals are not."""
    return (
        f"The last p is corrected for the {count:,} {what} of this table (Holm, 1979); each interval is of one "
        "difference by itself."
    )


def _flipped(values: np.ndarray, rng: np.random.Generator, references: np.ndarray | None) -> np.ndarray:
    """Return means [FLIPS, M] of values [Q, M] under random signs, one for all queries of a picture."""
    sums, _ = by_reference(values, references)
    size = (BLOCK_RESAMPLES, len(sums))
    # The number type belongs to the seed: another one draws other signs, and every p would change a little.
    signs = (2.0 * rng.integers(0, 2, size, dtype=np.int8) - 1 for _ in range(FLIPS // BLOCK_RESAMPLES))
    return np.concatenate([block @ sums for block in signs]) / len(values)


def _moved(seeds: Seeds, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return by how much other seeds would move each column in each of `count` draws, [count, M]."""
    return np.outer(rng.standard_t(seeds.freedom, count), seeds.errors)


def seeds_of(figures: Sequence[np.ndarray]) -> Seeds | None:
    """Return how far the difference of two runs, or one run by itself, moves with the seeds; None for one seed each.

    Args:
        figures: of each run [S, M], a line a seed, in [0, 1].

    The spread is pooled over the runs, as in Student's test of two samples: a run of one seed is taken to spread as the
    other does.
    """
    freedom = sum(len(own) - 1 for own in figures)
    if not freedom:
        return None
    squares = np.sum([((own - own.mean(axis=0)) ** 2).sum(axis=0) for own in figures], axis=0)
    return Seeds(np.sqrt(squares / freedom * sum(1 / len(own) for own in figures)), freedom)


def weights(column: str, means: Mapping[str, Sequence[str]], columns: Collection[str]) -> dict[str, float]:
    """Return the weight of each of `columns` in a column, which is one of them or a mean; empty if it is unknown.

    `means`: mean -> what it is made of, other means perhaps.
    """
    if column not in means:
        return {column: 1.0} if column in columns else {}
    total: dict[str, float] = defaultdict(float)
    for name in means[column]:
        for part, weight in weights(name, means, columns).items():
            total[part] += weight / len(means[column])
    return dict(total)
