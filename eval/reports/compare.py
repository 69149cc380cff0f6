"""Results side by side: a table for each protocol, beside it what papers report, and a paired test of every two.

What was measured by other rules, on another split or on other files never shares a table, and the text says why.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mllm_embed.errors import ConfigError
from mllm_embed.saving.provenance import changes

from .gaps import needing_both, seeds_of_run, with_gaps
from .paired_tests import SAME, in_all, same_numbers, tests
from .saved_result import SavedResult
from .seeds import deviation, read_runs
from .tables import STYLES, Block, Heading, ReportTable

PUBLISHED = "published.yaml"
_NOTHING = "–"


def compare(folders: Sequence[Path], style: str) -> str:
    """Return tables of results, by benchmark and protocol, as text.

    Args:
        folders: output folders of `mllm-embed-eval run` or `score`, or the result.json in them; or several of one
            model, one a seed, as NAME=FOLDER,FOLDER,...
        style: "markdown" or "latex" (for the package booktabs).

    Raises:
        DataError: a result is missing, unreadable, of another format, given twice, or of other queries than it says.
        ConfigError: an unknown style.
    """
    if style not in STYLES:
        raise ConfigError(f"the format is one of {', '.join(STYLES)}, not '{style}'")
    return STYLES[style](comparison(read_runs(folders)))


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
        yield from _other_intervals(group)
        yield from _seed_notes(group)
        named = with_gaps(group)
        yield from _tables(named)
        yield from _gap_notes(named)
        yield from tests(named, labels_of(named), [*_columns(named), *_derived(named)])


def _each(group: Sequence[SavedResult]) -> Iterable[tuple[str, SavedResult]]:
    """Yield what the results of a group are called, and each of them; of several seeds every one by itself."""
    for label, result in zip(labels_of(group), group, strict=True):
        for seed in seeds_of_run(result):
            yield f"{label} ({seed.folder})" if result.seeds else label, seed


def _other_pictures(group: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield a warning where the results of a group were measured on other picture files, which have the same names."""
    seen = [(label, result.pictures) for label, result in _each(group) if result.pictures]
    others = [label for label, pictures in seen if pictures != seen[0][1]]
    if others:
        yield (
            f"The picture files of {', '.join(others)} are of other sizes than those of {seen[0][0]}: of the same "
            "names, but perhaps not the same pictures."
        )


def _other_intervals(group: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield whose intervals were made by another rule than the first one's, such as that of an older version."""
    said = "which it does not say"
    # those of several seeds are made here, of results with rules of their own
    rules = [(label, result.interval or said) for label, result in zip(labels_of(group), group, strict=True)]
    rules = [rule for rule, result in zip(rules, group, strict=True) if not result.seeds]
    for label, rule in rules[1:]:
        first, there = rules[0]
        if rule != there:
            yield f"The intervals of {label} are made by another rule ({rule}) than those of {first} ({there})."


def _seed_notes(group: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield what stands in the table for runs of several seeds."""
    for label, result in zip(labels_of(group), group, strict=True):
        if result.seeds:
            folders = ", ".join(str(seed.folder) for seed in result.seeds)
            yield (
                f"{label}: mean and standard deviation of {len(result.seeds)} seeds ({folders}); its interval is over "
                "pictures and seeds."
            )


def _gap_notes(group: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield what the gaps of a table are, and which results have none."""
    if not _derived(group):
        return
    counts = (f"{count:,} queries" + (f" of {task}" if task else "") for task, count in needing_both(group).items())
    yield (
        "gap: the query as asked minus the better of its halves, picture or words alone, which is each run's own. need "
        f"both: {', '.join(counts)}, which no half of any run here finds."
    )
    yield from (
        f"No gap of {label}: its halves were not measured."
        for label, result in zip(labels_of(group), group, strict=True)
        if not result.derived
    )


def _other_prompts(group: Sequence[SavedResult]) -> Iterable[Block]:
    """Yield in what the results of a group were asked otherwise than the first."""
    seen = [(label, result.asked) for label, result in _each(group) if result.asked]
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
    own, columns = results[0], [*_columns(results), *_derived(results)]
    # a folder of one's own may bear any benchmark's name, but has neither split nor options
    official = bool(own.split or own.options) and not own.chosen
    if own.chosen and published(own.name):
        yield f"No published rows: published results are of all queries, and these of {own.chosen} alone."
    rows = _with_some_of(columns, published(own.name)) if official else []
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


def _with_some_of(columns: Sequence[str], rows: PublishedRows) -> PublishedRows:
    """Return the published rows that have a figure of some column."""
    return [row for row in rows if set(row["metrics"]) & set(columns)]


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


def _derived(results: Sequence[SavedResult]) -> list[str]:
    """Return the columns that are made of others: gaps, and what is found of the queries that need both halves."""
    return list(dict.fromkeys(itertools.chain.from_iterable(result.derived for result in results)))


def _shown(results: Sequence[SavedResult], columns: Sequence[str], rows: PublishedRows) -> dict[str, str]:
    """Return the columns of our table and their names: of several results what is the same number once.

    A column of published `rows` keeps its name, and so do all of a single result, where figures may agree by chance.
    """
    names = dict(zip(columns, columns, strict=True))
    if len(results) < 2 or any(result.per_query is None for result in results):
        return names
    own = in_all(results, set(columns).difference(*(row["metrics"] for row in rows)))
    same = same_numbers(results, [name for name in columns if name in own])
    return {name: same.get(name, name) for name in names if name in same or name not in own}


def _our_lines(results: Sequence[SavedResult], names: Mapping[str, str], mixed: bool) -> list[dict[str, str]]:
    """Return lines for `_table`; `mixed`: with published ones, so that they must say whose they are."""
    columns = list(names)
    wanted = _columns(results)[-1 if results[0].means else 0]
    # a mean over one task is its only part, and stands under that one's name
    headline = next(name for name, called in names.items() if wanted in called.split(SAME))
    more = {"split": results[0].split, "source": "ours"} if mixed else {}
    lines = []
    for label, result in zip(labels_of(results), results, strict=True):
        line = {names[name]: _cell(result, name) for name in columns}
        interval = "{1:.2f} to {2:.2f}".format(*result.estimates[headline]) if headline in result.estimates else ""
        lines.append({"method": label, **line, _interval(names[headline]): interval, **more})
    return lines


def _cell(result: SavedResult, name: str) -> str:
    """Return a figure as the table shows it, with its standard deviation over seeds; nothing where there is none."""
    if name in result.derived:
        percent = result.derived[name].percent
    elif name in result.estimates:
        percent = result.estimates[name][0]
    else:
        return ""
    spread = deviation(result, name)
    return f"{percent:.2f}" if spread is None else f"{percent:.2f} ± {spread:.2f}"


def _interval(column: str) -> str:
    return f"95 % of {column}"


def labels_of(results: Sequence[SavedResult]) -> list[str]:
    """Return folder names where they tell the results apart, otherwise the models, otherwise the paths."""
    folders = [result.label or result.folder.resolve().name for result in results]
    models = [result.model for result in results]
    paths = [result.label or str(result.folder) for result in results]
    return next((labels for labels in (folders, models) if _tell_apart(labels, results[0].name)), paths)


def _tell_apart(labels: Sequence[str], benchmark: str) -> bool:
    # a folder called as the benchmark, or no model at all, would tell a reader nothing
    return len(set(labels)) == len(labels) and {"", benchmark}.isdisjoint(labels)


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
    values = {number: float(line[column].split()[0]) for number, line in enumerate(lines) if line.get(column)}
    if len(values) < 2:
        return []
    best = min(values.values()) if lower else max(values.values())
    return [number for number, value in values.items() if value == best]
