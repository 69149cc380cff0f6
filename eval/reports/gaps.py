"""Columns that a comparison adds: the composition gap, and what is found of the queries that need both halves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..scoring.composition import HALVES, IMAGE_ONLY, NEITHER, TEXT_ONLY, better_half, labels_of
from ..scoring.paired import weights
from ..scoring.suite import column
from .saved_result import Derived, SavedResult

Parts = dict[str, np.ndarray]
"""Task -> [Q], whose means over their queries add up to a figure in [0, 1]."""


def contributions(result: SavedResult, name: str, row: str = "") -> Parts:
    """Return what each query adds to a column; nothing without per_query.json.

    Args:
        result: what was read.
        name: a column of it, a mean, or a derived column.
        row: the half that is asked, in place of the whole query.
    """
    if name in result.derived:
        return dict(result.derived[name].parts)
    parts: Parts = {}
    if result.per_query is None:
        return parts
    values = result.per_query.halves[row] if row else result.per_query.values
    for part, weight in weights(name, result.means, result.columns).items():
        task = result.columns[part][0]
        parts[task] = parts.get(task, 0.0) + weight * values[part]
    return parts


def figure(parts: Mapping[str, np.ndarray]) -> float:
    """Return the figure that contributions add up to, in [0, 1]."""
    return float(sum(part.mean() for part in parts.values()))


def with_gaps(results: Sequence[SavedResult]) -> list[SavedResult]:
    """Return results of one protocol with derived columns, where both halves of every query were asked.

    "gap R@10" is the composed query minus the better half of that run; "R@10, need both" is over the queries that no
    half of any of the results finds, which are the same ones for all.
    """
    asked = [all(map(_asked_halves, seeds_of_run(one))) for one in results]
    needing = _needing([one for one, halves in zip(results, asked, strict=True) if halves])
    return [_with_gaps(one, needing) if halves else one for one, halves in zip(results, asked, strict=True)]


def seeds_of_run(result: SavedResult) -> tuple[SavedResult, ...]:
    """Return the results of a run: those of its seeds, or itself."""
    return result.seeds or (result,)


def needing_both(results: Sequence[SavedResult]) -> dict[str, int]:
    """Return how many queries need both halves in all results that were audited, by task; nothing without any."""
    audited = [one for one in results if one.derived]
    return {task: int(found.sum()) for task, found in _needing(audited).items()}


def _asked_halves(result: SavedResult) -> bool:
    return result.per_query is not None and bool(result.per_query.halves)


def _needing(results: Sequence[SavedResult]) -> dict[str, np.ndarray]:
    """Return by task which queries [Q] bool no half of any result finds, at the first audited metric."""
    needing: dict[str, np.ndarray] = {}
    for result in results:
        for seed in seeds_of_run(result):
            halves = seed.per_query.halves if seed.per_query is not None else {}
            for task, (metric, *_) in seed.audited.items():
                image, text = (halves[row][column(task, metric)] for row in HALVES)
                found = labels_of(image, text) == NEITHER
                needing[task] = needing.get(task, True) & found
    return needing


def _bases(result: SavedResult) -> list[str]:
    """Return what gaps are taken of: the first mean over audited metrics, or the first audited metric of each task."""
    if result.audited_means:
        return list(result.audited_means[:1])
    return [column(task, metrics[0]) for task, metrics in result.audited.items()]


def _with_gaps(result: SavedResult, needing: Mapping[str, np.ndarray]) -> SavedResult:
    seeds = [_derived_of(seed, needing) for seed in seeds_of_run(result)]
    if not result.seeds:
        return seeds[0]
    derived = {}
    for name in seeds[0].derived:
        derived[name] = _derived(mean_parts([seed.derived[name].parts for seed in seeds]), seeds[0].derived[name].among)
    return replace(result, derived=derived, seeds=tuple(seeds))


def _derived_of(result: SavedResult, needing: Mapping[str, np.ndarray]) -> SavedResult:
    derived = {}
    for base in _bases(result):
        derived[f"gap {base}"] = _derived(_gap(result, base))
        parts = contributions(result, base)
        if all(needing[task].any() for task in parts):
            derived[f"{base}, need both"] = _derived(_among(parts, needing), {task: needing[task] for task in parts})
    return replace(result, derived=derived)


def _derived(parts: Parts, among: Mapping[str, np.ndarray] | None = None) -> Derived:
    return Derived(100 * figure(parts), parts, among or {})


def as_drawn(parts: Mapping[str, np.ndarray], among: Mapping[str, np.ndarray]) -> Parts:
    """Return what stands for contributions where queries are drawn.

    A mean over some of the queries is a ratio: how many of them are drawn varies as what they add does. Its linear part
    is drawn in its place, which has the same mean.
    """
    drawn: Parts = {}
    for task, own in parts.items():
        drawn[task] = own
        if task in among:
            drawn[task] = own + own.mean() * (1 - among[task] / max(among[task].mean(), 1 / len(own)))
    return drawn


def mean_parts(seeds: Sequence[Mapping[str, np.ndarray]]) -> Parts:
    """Return the mean over seeds of what each query adds."""
    parts: Parts = {}
    for task in seeds[0]:
        parts[task] = np.mean([own[task] for own in seeds], axis=0)
    return parts


def _gap(result: SavedResult, base: str) -> Parts:
    halves = {row: contributions(result, base, row) for row in HALVES}
    better = better_half(*(figure(halves[row]) for row in (IMAGE_ONLY, TEXT_ONLY)))
    return {task: own - halves[better][task] for task, own in contributions(result, base).items()}


def _among(parts: Parts, needing: Mapping[str, np.ndarray]) -> Parts:
    """Return contributions whose means over all queries are those over the queries that need both."""
    found: Parts = {}
    for task, own in parts.items():
        found[task] = np.where(needing[task], own, 0.0) * (len(own) / max(1, needing[task].sum()))
    return found
