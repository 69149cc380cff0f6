"""The paired tests below a table of results: every two of them, in every column that it shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from mllm_embed.errors import DataError

from ..scoring.estimate import RESAMPLES
from ..scoring.paired import FLIPS, Difference, corrected, holm_note, paired, weights
from .gaps import as_drawn, contributions
from .report import PER_QUERY
from .saved_result import AGAIN, SavedResult
from .seeds import spread, stacked
from .tables import Block, ReportTable

SAME = " = "  # between the names of columns that are the same number


def tests(results: Sequence[SavedResult], labels: Sequence[str], columns: Sequence[str]) -> Iterable[Block]:
    """Yield the paired tests of every two results that share a protocol.

    Args:
        results: with per_query.json; of those without one a line says that they are left out.
        labels: what each is called.
        columns: that the table shows.
    """
    if len(results) < 2:
        return
    tested = [(result, label) for result, label in zip(results, labels, strict=True) if result.per_query is not None]
    yield from (
        f"No paired test of {label}: its folder has no {PER_QUERY}."
        for result, label in zip(results, labels, strict=True)
        if result.per_query is None
    )
    runs = [result for result, _ in tested]
    yield from _tested(tested, same_numbers(runs, in_all(runs, columns)))


def _tested(runs: Sequence[tuple[SavedResult, str]], names: Mapping[str, str]) -> Iterable[Block]:
    """Yield the table of tests of every two runs, with their labels, in the columns of `names`, which says how they are
    called."""
    found: list[Difference] = []
    heads: list[list[str]] = []
    for (base, minus), (result, label) in itertools.combinations(runs if names else [], 2):
        found += _differences(base, result, list(names))
        heads += ([label, minus, name] for name in names.values())
    if found:
        yield (
            f"Paired tests on the same queries: the difference in points, its 95 % interval from {RESAMPLES:,} "
            f"bootstrap samples, two-sided p from {FLIPS:,} random sign flips{_unit([run for run, _ in runs])}. "
            f"{holm_note(len(found), 'tests')}"
        )
        rows = [[*head, *_test_cells(one)] for head, one in zip(heads, corrected(found), strict=True)]
        yield ReportTable(["run", "minus", "column", "difference", "95 %", "p", "p, Holm"], rows)


def _unit(runs: Sequence[SavedResult]) -> str:
    """Return by what is drawn and flipped, in words."""
    known = [run for run in runs if run.per_query is not None and run.per_query.references]
    seeds = any(run.seeds for run in runs)
    unit = (
        "reference picture, with all queries of each"
        if known
        else ("query, since no result here tells which of them share a reference picture")
    )
    more = "; both are moved by the spread between seeds (Student's t, pooled over the two runs)" if seeds else ""
    return f", both by {unit}{more}"


def in_all(results: Sequence[SavedResult], columns: Iterable[str]) -> list[str]:
    """Return the columns that all results have."""
    return [name for name in columns if all(map(partial(_has, name), results))]


def _has(column: str, result: SavedResult) -> bool:
    return column in result.derived or bool(weights(column, result.means, result.columns))


def same_numbers(results: Sequence[SavedResult], columns: Sequence[str]) -> dict[str, str]:
    """Return the columns that differ, and the name of each with those that are the same number: "R@1 = mAP@1".

    Two columns are one where every query has the same value in both, in all results: with one target a query mAP is
    MRR, say. Tested twice, they would count twice among the tests.
    """
    first: dict[bytes, str] = {}
    names: dict[str, list[str]] = {}
    for column in columns:
        content = b"".join(_as_bytes(result, column) for result in results)
        names.setdefault(first.setdefault(content, column), []).append(column)
    return {column: SAME.join(same) for column, same in names.items()}


def _as_bytes(result: SavedResult, column: str) -> bytes:
    """Return what each query adds to a column, of all tasks that it is made of, as bytes to be told apart."""
    parts = contributions(result, column)
    return b"".join(f"{task}\0".encode() + parts[task].tobytes() for task in sorted(parts))


def _test_cells(found: Difference) -> list[str]:
    interval = f"{found.low:+.2f} to {found.high:+.2f}"
    return [f"{found.points:+.2f}", interval, f"{found.p:.4f}", f"{found.p_holm:.4f}"]


def _differences(base: SavedResult, result: SavedResult, columns: Sequence[str]) -> list[Difference]:
    """Return the tests of what one run has more than another."""
    _check_queries(base, result)
    more, drawn = [], []
    for column in columns:
        before, after = contributions(base, column), contributions(result, column)
        more.append({task: after[task] - before[task] for task in before})
        # queries that no half of any run finds are the same ones for both
        drawn.append(as_drawn(more[-1], base.derived[column].among if column in base.derived else {}))
    values, references = stacked(more, base, result)
    return paired(values, references, spread([base, result], columns), stacked(drawn)[0])


def _check_queries(base: SavedResult, result: SavedResult) -> None:
    """Raise DataError for results of the same fingerprint whose per_query.json name other queries."""
    before, after = base.per_query, result.per_query
    if before is None or after is None:
        raise DataError(f"{base.folder} or {result.folder} has no {PER_QUERY}: {AGAIN}")
    for task in dict.fromkeys(task for task, _ in base.columns.values()):
        if after.ids.get(task) != before.ids[task]:
            where = f"task {task}: " if task else ""
            raise DataError(
                f"{where}the query ids in {base.folder / PER_QUERY} and {result.folder / PER_QUERY} differ, "
                f"though both results have the same fingerprint: {AGAIN}"
            )
