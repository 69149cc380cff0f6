"""Runs of several seeds of one model, as one line of a comparison: NAME=FOLDER,FOLDER,..."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from mllm_embed.errors import DataError

from ..scoring.estimate import INTERVAL_RULE, bounded
from ..scoring.paired import Seeds, paired, seeds_of
from .gaps import Parts, contributions, figure, mean_parts, seeds_of_run
from .report import PER_QUERY
from .saved_result import AGAIN, PerQuery, SavedResult, check_once, read_saved_result

_CURE = "give NAME=FOLDER,FOLDER,..., a result folder a seed"


def read_runs(given: Sequence[Path]) -> list[SavedResult]:
    """Return what is to be compared, each as `read_run` reads it.

    Raises DataError as that does, and for a folder that is given twice, or a name.
    """
    runs = [read_run(Path(one)) for one in given]
    check_once(list(chain.from_iterable(map(seeds_of_run, runs))))
    for label, count in Counter(run.label for run in runs if run.label).items():
        if count > 1:
            raise DataError(f"two runs are called {label}: give them different names")
    return runs


def read_run(given: Path) -> SavedResult:
    """Read a result folder, or the mean of several: NAME=FOLDER,FOLDER,...

    Raises:
        DataError: as `read_saved_result`; seeds of different benchmarks or protocols, or without per_query.json; a name
            without at least two folders, or a folder that is given twice.
    """
    name, sign, folders = str(given).partition("=")
    # a folder may have "=" in its name
    if given.exists() or not sign:
        return read_saved_result(given)
    paths = [Path(folder) for folder in folders.split(",")]
    if not name or len(paths) < 2 or not all(folders.split(",")):
        raise DataError(f"{given} is no folder, and names no two seeds: {_CURE}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError(f"{given} gives a folder twice: {_CURE}")
    return pooled(name, [read_saved_result(path) for path in paths])


def pooled(name: str, seeds: Sequence[SavedResult]) -> SavedResult:
    """Return the mean of the results of several seeds, its intervals over pictures and seeds.

    Raises DataError for results that do not share a table, and without values of single queries.
    """
    first = seeds[0]
    for seed in seeds:
        if (seed.name, seed.protocol) != (first.name, first.protocol):
            raise DataError(
                f"{name}: {seed.folder} is of another benchmark or protocol than {first.folder}: seeds of one model "
                "are measured alike"
            )
        if seed.per_query is None:
            raise DataError(f"{name}: {seed.folder} has no {PER_QUERY}, without which seeds have no mean: {AGAIN}")
        if first.per_query is None or seed.per_query.ids != first.per_query.ids:
            raise DataError(f"{name}: the query ids in {seed.folder} and {first.folder} differ: {AGAIN}")
    found = replace(first, label=name, seeds=tuple(seeds), per_query=_mean(seeds), interval=_INTERVAL)
    return replace(found, estimates=_estimates(found))


_INTERVAL = f"{INTERVAL_RULE}; and of the seeds, by Student's t, cut at 0 and 100"


def _mean(seeds: Sequence[SavedResult]) -> PerQuery:
    own = [seed.per_query for seed in seeds if seed.per_query is not None]
    values = mean_parts([one.values for one in own])
    references: dict[str, np.ndarray] = {}
    for one in own:  # older results do not know them
        references |= one.references
    return PerQuery(own[0].ids, values, references)


def _estimates(run: SavedResult) -> dict[str, tuple[float, float, float]]:
    """Return the figures of a run of several seeds, the mean of what each seed reports, with their intervals."""
    names = list(run.estimates)
    parts = [contributions(run, name) for name in names]
    found = paired(*stacked(parts, run), spread([run], names))
    estimates = {}
    for name, one in zip(names, found, strict=True):
        percent = float(np.mean([seed.estimates[name][0] for seed in run.seeds]))
        estimates[name] = percent, *bounded(one.low, one.high)
    return estimates


def stacked(columns: Sequence[Parts], *runs: SavedResult) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Return for each task what its queries add to each column [Q, M], and which of them share a picture [Q] or None.

    The pictures are those that any of the runs knows, which are of the same queries.
    """
    tasks = dict.fromkeys(task for parts in columns for task in parts)
    references: dict[str, np.ndarray] = {}
    for run in runs:
        references |= run.per_query.references if run.per_query else {}
    values = []
    for task in tasks:
        count = next(len(parts[task]) for parts in columns if task in parts)
        # a column that is of other tasks alone stays 0 here, and adds nothing
        values.append(np.stack([parts.get(task, np.zeros(count)) for parts in columns], axis=1))
    return values, [references.get(task) for task in tasks]


def spread(runs: Sequence[SavedResult], names: Sequence[str]) -> Seeds | None:
    """Return how far the difference of two runs, or one run, moves with the seeds; None where each has one seed."""
    return seeds_of([_figures(run, names) for run in runs])


def deviation(run: SavedResult, name: str) -> float | None:
    """Return the standard deviation of a column over the seeds of a run, in points; None for one seed."""
    return 100 * float(np.std(_over_seeds(run, name), ddof=1)) if run.seeds else None


def _figures(run: SavedResult, names: Sequence[str]) -> np.ndarray:
    """Return the figures [S, M] of each seed, in [0, 1]."""
    return np.stack([_over_seeds(run, name) for name in names], axis=1)


def _over_seeds(run: SavedResult, name: str) -> np.ndarray:
    return np.array([figure(contributions(seed, name)) for seed in seeds_of_run(run)])
