"""Results side by side: a table for each protocol, beside it what papers report, and a paired test of every two.

What was measured by other rules, on another split or on other files never shares a table, and the text says why.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.saving.provenance import changes

from ..scoring.estimate import RESAMPLES
from ..scoring.paired import FLIPS, Difference, corrected, holm_note, paired, weights
from .report import PER_QUERY
from .saved_result import AGAIN, SavedResult, read_saved_results
from .tables import STYLES, Block, Heading, ReportTable

PUBLISHED = "published.yaml"
_NOTHING = "–"


def compare(folders: Sequence[Path], style: str) -> str:
    """Return tables of results, by benchmark and protocol, as text.

    Args:
        folders: output folders of `mllm-embed-eval run` or `score`, or the result.json in them.
        style: "markdown" or "latex" (for the package booktabs).

    Raises:
        DataError: a result is missing, unreadable, of another format, given twice, or of other queries than it says.
        ConfigError: an unknown style.
    """
    if style not in STYLES:
        raise ConfigError(f"the format is one of {', '.join(STYLES)}, not '{style}'")
    return STYLES[style](comparison(read_saved_results(folders)))


def comparison(results: Sequence[SavedResult]) -> Iterable[Block]:
    """Return tables of results, by benchmark and protocol. Raises DataError as `compare`."""
    by_name: dict[str, list[SavedResult]] = {}
    for result in results:
        by_name.setdefault(result.name, []).append(result)
    return itertools.chain.from_iterable(map(_benchmark, by_name.values()))


def published(benchmark: str) -> list[dict[str, Any]]:
    """Return the rows of published.yaml by the benchmark's rules, all values as text: 33.90 stays as it was printed."""
    return [row for row in _all_published(benchmark) if "protocol" not in row]


def published_otherwise(benchmark: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of published.yaml by other rules, which no result of ours follows, by whose rules those are."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in _all_published(benchmark):
        if "protocol" in row:
            found.setdefault(row["protocol"], []).append(row)
    return found


def _all_published(benchmark: str) -> list[dict[str, Any]]:
    text = Path(__file__).with_name(PUBLISHED).read_text(encoding="utf-8")
    return [row for row in yaml.load(text, Loader=yaml.BaseLoader) if row["benchmark"] == benchmark]


def _benchmark(results: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield all that is said of one benchmark: a section for each protocol."""
    groups: dict[tuple[str, ...], list[SavedResult]] = {}
    for result in results:
        groups.setdefault(result.protocol, []).append(result)
    first = results[0]
    for group in groups.values():
        own = group[0]
        yield Heading(own.title)
        if own is not first:
            yield f"A table of its own, not to be compared with the first: {_other_protocol(first, own)}."
        yield f"Ties: {own.ties}. Fingerprint: {own.fingerprint[:12]}."
        yield from _other_pictures(group)
        yield from _other_prompts(group)
        yield from _tables(group)
        yield from _tests(group)


def _other_pictures(group: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield a warning where the results of a group were measured on other picture files, which have the same names."""
    seen = [(label, result.pictures) for label, result in zip(labels_of(group), group, strict=True) if result.pictures]
    others = [label for label, pictures in seen if pictures != seen[0][1]]
    if others:
        yield (
            f"The picture files of {', '.join(others)} are of other sizes than those of {seen[0][0]}: of the same "
            "names, but perhaps not the same pictures."
        )


def _other_prompts(group: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield in what the results of a group were asked otherwise than the first."""
    seen = [(label, result.asked) for label, result in zip(labels_of(group), group, strict=True) if result.asked]
    for label, asked in seen[1:]:
        first, there = seen[0]
        # of two sets nothing is alike, and of one that was changed the changes tell
        same_set = there["prompts"]["name"] == asked["prompts"]["name"]
        differing = list(changes(there, asked) if same_set else changes(_named(there), _named(asked)))
        if differing:
            yield f"{label} was asked otherwise than {first}: {'; '.join(differing)}."


def _named(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return how something was asked with its prompts by their name alone."""
    others = {key: value for key, value in asked.items() if key != "prompts by task"}
    return {**others, "prompts": asked["prompts"]["name"]}


def _other_protocol(first: SavedResult, result: SavedResult) -> str:
    """Return how the protocol of a result is not that of the first one."""
    here, there = (
        {"split": one.split, **one.options, "only": one.chosen or "all queries", "ties": one.ties}
        for one in (result, first)
    )
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if keys:
        return "; ".join(f"{key}: {here.get(key)} (there {there.get(key)})" for key in keys)
    return f"the fingerprint there is {first.fingerprint[:12]}: ids, words or targets differ"


def _tables(results: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield our table, and the published rows: in it where they are of its split, below it where not."""
    own, columns = results[0], _columns(results)
    # a folder of one's own may bear any benchmark's name, but has neither split nor options
    official = bool(own.split or own.options) and not own.chosen
    known = published(own.name) if official else []
    if own.chosen and published(own.name):
        yield f"No published rows: published results are of all queries, and these of {own.chosen} alone."
    rows = [row for row in known if set(row["metrics"]) & set(columns)]
    same_split, elsewhere, left_out = _sorted_out(rows, own)
    names = _shown(results, columns, same_split)
    lower = {names.get(name, name) for name, (_, metric) in own.columns.items() if metric in own.lower}
    yield _table(list(names.values()), _our_lines(results, names, bool(same_split)), same_split, lower)
    for options in left_out:
        yield f"Published results are left out: they are for {options}."
    for split, others in elsewhere.items():
        yield f"Published, on another split: {split}, not {own.split}. Not to be compared number by number with ours."
        yield _table(columns, [], others, lower)
    for protocol, others in (published_otherwise(own.name) if official else {}).items():
        metric = next(iter(others[0]["metrics"]))
        yield (
            f"{len(others)} published results are left out: {metric}, by {protocol}'s rules for its task of this name, "
            "is no recall in this gallery, and not to be compared with it."
        )


PublishedRows = list[dict[str, Any]]


def _sorted_out(rows: PublishedRows, own: SavedResult) -> tuple[PublishedRows, dict[str, PublishedRows], list[str]]:
    """Return the published rows of our split, those of other splits by split, and the options of what is left out."""
    same_split: PublishedRows = []
    elsewhere: dict[str, PublishedRows] = {}
    left_out: dict[str, None] = {}
    for row in rows:
        options = row.get("options", {})
        # by other rules: a gallery or a wording that changes the figures
        if not options.items() <= own.options.items():
            left_out[" ".join(map("=".join, options.items()))] = None
        elif row["split"] == own.split:
            same_split.append(row)
        else:
            elsewhere.setdefault(row["split"], []).append(row)
    return same_split, elsewhere, list(left_out)


def _columns(results: Sequence[SavedResult]) -> list[str]:
    """Return the columns that people print, the means last."""
    columns: dict[str, None] = {}
    means: dict[str, None] = {}
    for result in results:
        printed = [name for name, (_, metric) in result.columns.items() if metric in (result.printed or (metric,))]
        columns |= dict.fromkeys(printed)
        means |= dict.fromkeys(result.means)
    return list(columns | means)


def _shown(results: Sequence[SavedResult], columns: Sequence[str], rows: PublishedRows) -> dict[str, str]:
    """Return the columns of our table and their names: of several results what is the same number once.

    A column of published `rows` keeps its name, and so do all of a single result, where figures may agree by chance.
    """
    names = dict(zip(columns, columns, strict=True))
    if len(results) < 2 or any(result.per_query is None for result in results):
        return names
    own = _in_all(results, set(columns).difference(*(row["metrics"] for row in rows)))
    same = _same_numbers(results, [name for name in columns if name in own])
    return {name: same.get(name, name) for name in names if name in same or name not in own}


def _our_lines(results: Sequence[SavedResult], names: Mapping[str, str], mixed: bool) -> list[dict[str, str]]:
    """Return lines for `_table`; `mixed`: with published ones, so that they must say whose they are."""
    columns = list(names)
    headline = columns[-1] if results[0].means else columns[0]
    more = {"split": results[0].split, "source": "ours"} if mixed else {}
    lines = []
    for label, result in zip(labels_of(results), results, strict=True):
        line = {names[name]: f"{result.estimates[name][0]:.2f}" for name in columns if name in result.estimates}
        interval = "{1:.2f} to {2:.2f}".format(*result.estimates[headline]) if headline in result.estimates else ""
        lines.append({"method": label, **line, _interval(names[headline]): interval, **more})
    return lines


def _interval(column: str) -> str:
    return f"95 % of {column}"


def labels_of(results: Sequence[SavedResult]) -> list[str]:
    """Return folder names where they tell the results apart, otherwise the models, otherwise the paths."""
    folders = [result.folder.resolve().name for result in results]
    models = [result.model for result in results]
    for labels in (folders, models):
        # a folder called as the benchmark, or no model at all, would tell a reader nothing
        if len(set(labels)) == len(labels) and not {"", results[0].name} & set(labels):
            return labels
    return [str(result.folder) for result in results]


def _table(
    columns: Sequence[str], ours: Sequence[Mapping[str, str]], rows: PublishedRows, lower: Collection[str]
) -> ReportTable:
    """Return lines of ours, then published ones; what no line has is no column. `lower`: where less is better."""
    lines = [*ours, *({**row, **row["metrics"]} for row in rows)]
    head = ["method", "backbone", "setting", "split", *columns, *map(_interval, columns), "source"]
    used = {key for line in lines for key, cell in line.items() if cell}
    head = [key for key in head if key in used]
    best = {(number, head.index(column)) for column in columns for number in _best(lines, column, column in lower)}
    cells = [_cells(line, head) for line in lines]
    return ReportTable(head, cells, frozenset(best))


def _cells(line: Mapping[str, Any], head: Sequence[str]) -> list[str]:
    return [line.get(key) or _NOTHING for key in head]


def _best(lines: Sequence[Mapping[str, Any]], column: str, lower: bool) -> list[int]:
    """Return which lines have the best value of a column; none where one line alone has a value."""
    values = {number: float(line[column]) for number, line in enumerate(lines) if line.get(column)}
    if len(values) < 2:
        return []
    best = min(values.values()) if lower else max(values.values())
    return [number for number, value in values.items() if value == best]


def _tests(results: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield the paired tests of a group: every pair of results, every column."""
    if len(results) < 2:
        return
    labels = dict(zip([result.folder for result in results], labels_of(results), strict=True))
    tested = [result for result in results if result.per_query is not None]
    yield from (
        f"No paired test of {labels[result.folder]}: its folder has no {PER_QUERY}."
        for result in results
        if result.per_query is None
    )
    names = _same_numbers(tested, _in_all(tested, _columns(results)))
    yield from _tested(tested, labels, names)


def _tested(results: Sequence[SavedResult], labels: Mapping[Path, str], names: Mapping[str, str]) -> Iterable[Block]:
    """Yield the table of tests of every two results in the columns of `names`, which says how they are called."""
    found: list[Difference] = []
    heads: list[list[str]] = []
    for base, result in itertools.combinations(results if names else [], 2):
        found += paired(_differences(base, result, list(names)))
        heads += ([labels[result.folder], labels[base.folder], name] for name in names.values())
    if found:
        yield (
            f"Paired tests on the same queries: the difference in points, its 95 % interval from {RESAMPLES:,} "
            f"bootstrap samples, two-sided p from {FLIPS:,} random sign flips. {holm_note(len(found), 'tests')}"
        )
        rows = [[*head, *_test_cells(one)] for head, one in zip(heads, corrected(found), strict=True)]
        yield ReportTable(["run", "minus", "column", "difference", "95 %", "p", "p, Holm"], rows)


def _in_all(results: Sequence[SavedResult], columns: Iterable[str]) -> list[str]:
    """Return the columns that all results have."""
    return [name for name in columns if all(map(partial(_has, name), results))]


def _has(column: str, result: SavedResult) -> bool:
    return bool(weights(column, result.means, result.columns))


def _same_numbers(results: Sequence[SavedResult], columns: Sequence[str]) -> dict[str, str]:
    """Return the columns that differ, and the name of each with those that are the same number: "R@1 = mAP@1".

    Two columns are one where every query has the same value in both, in all results: with one target a query mAP is
    MRR, say. Tested twice, they would count twice among the tests.
    """
    first: dict[bytes, str] = {}
    names: dict[str, list[str]] = {}
    for column in columns:
        content = b"".join(_contribution(result, column) for result in results)
        names.setdefault(first.setdefault(content, column), []).append(column)
    return {column: " = ".join(same) for column, same in names.items()}


def _contribution(result: SavedResult, column: str) -> bytes:
    """Return what each query adds to a column, of all tasks that it is made of, as bytes to be told apart."""
    if result.per_query is None:
        return b""
    parts: dict[str, np.ndarray] = {}
    for name, weight in weights(column, result.means, result.columns).items():
        task = result.columns[name][0]
        parts[task] = parts.get(task, 0.0) + weight * result.per_query.values[name]
    return b"".join(f"{task}\0".encode() + parts[task].tobytes() for task in sorted(parts))


def _test_cells(found: Difference) -> list[str]:
    interval = f"{found.low:+.2f} to {found.high:+.2f}"
    return [f"{found.points:+.2f}", interval, f"{found.p:.4f}", f"{found.p_holm:.4f}"]


def _differences(base: SavedResult, result: SavedResult, columns: Sequence[str]) -> list[np.ndarray]:
    """Return for each task [Q, M]: what each query adds to the difference of each column."""
    before, after = base.per_query, result.per_query
    if before is None or after is None:
        raise DataError(f"{base.folder} or {result.folder} has no {PER_QUERY}: {AGAIN}")
    parts = {}
    for task in dict.fromkeys(task for task, _ in base.columns.values()):
        if after.ids.get(task) != before.ids[task]:
            where = f"task {task}: " if task else ""
            raise DataError(
                f"{where}the query ids in {base.folder / PER_QUERY} and {result.folder / PER_QUERY} differ, "
                f"though both results have the same fingerprint: {AGAIN}"
            )
        # a column that is of other tasks alone stays 0 here, and adds nothing
        parts[task] = np.zeros((len(before.ids[task]), len(columns)))
    for at, column in enumerate(columns):
        for name, weight in weights(column, base.means, base.columns).items():
            parts[base.columns[name][0]][:, at] += weight * (after.values[name] - before.values[name])
    return list(parts.values())
