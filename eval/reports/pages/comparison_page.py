"""The page of two results: wins, losses and ties, query by query, with the answers of both side by side."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError

from ...scoring.suite import Suite
from ..compare import comparison, labels_of
from ..report import PER_QUERY
from ..saved_result import AGAIN, SavedResult
from ..tables import Block, Heading, ReportTable
from . import MEGABYTES
from .content import Asked, Content, Entry, Row, facet, facets
from .html_page import REPORT, write_page
from .result_page import part_of
from .saved_content import SavedRow, SavedTask, Shown, read_tasks, shown_by_page, shown_by_suite
from .suite_content import MOST_QUERIES
from .thumbnails import Kept, make_thumbnails

Tasks = Mapping[str, SavedTask]
Key = tuple[str, str]  # a query's task, and its id
_Found = tuple[str, SavedRow | None, int]


def incomparable(results: Sequence[SavedResult]) -> str | None:
    """Return why there is no page of results, in a sentence; None for two results of the same queries and rules."""
    if len(results) != 2:
        return f"a page compares two results, and {len(results)} are given"
    first, second = results
    if first.seeds or second.seeds:
        return "a page compares single results, query by query, and no runs of several seeds"
    if first.protocol != second.protocol:
        return f"{first.folder} and {second.folder} are not of the same benchmark, files and rules"
    missing = [result.folder for result in results if result.per_query is None]
    return f"{missing[0]} has no {PER_QUERY}" if missing else None


def write_comparison(
    results: Sequence[SavedResult],
    folder: Path,
    suite: Suite | None = None,
    megabytes: float = MEGABYTES,
    progress: bool | None = None,
) -> Path:
    """Write FOLDER/report.html, one file with all in it, of two results that are not `incomparable`.

    Args:
        results: both.
        folder: for the page.
        suite: their benchmark, for words and pictures; without it they are those of the pages in the result folders.
        megabytes: of thumbnails, as they stand in the page.
        progress: whether to show a bar while they are made; None shows one on a terminal.

    Returns:
        The path.

    Raises:
        DataError: a file cannot be read or written, or is of another run than the result; a suite of another benchmark.
    """
    tasks = [_tasks(result) for result in results]
    names = labels_of(results)
    known, notes = _known(results, suite)
    keys = _keys(tasks[0])
    queries = [known.asked.get((task, name), Asked(name, task)) for task, name in keys]
    content = Content(_all_entries(known, tasks))
    rows = [content.row(row, row.part == "asked") for row in _rows(tasks, names, keys, results[0].whole)]
    plain = content.queries(queries)
    thumbnails = make_thumbnails(content.wanted, megabytes, progress)
    plain["pictures"] = thumbnails.placed(plain["pictures"])
    count = sum(len(task.ids) for task in tasks[0].values())
    if len(keys) < count:
        notes.append(f"The page shows {len(keys):,} of {count:,} queries, evenly spread; the figures are of all.")
    if content.wanted.pictures:
        notes.append(thumbnails.note(megabytes))
    data = {
        "kind": "comparison",
        "fingerprint": results[0].fingerprint,
        "title": f"{names[0]} and {names[1]}: {results[0].title}",
        "about": " · ".join(_who(name, result) for name, result in zip(names, results, strict=True)),
        "blocks": list(map(_plain, comparison(results))),
        "protocol": [],
        "notes": notes,
        "runs": names,
        "lower": list(results[0].lower),
        "measure": results[0].columns.get(results[0].headline, ("", None))[1],
        "rows": rows,
        "facets": [*facets(queries), *_found_alone(tasks, names, keys)],
        "entries": content.plain_entries(thumbnails),
        "queries": plain,
    }
    return write_page(folder / REPORT, data, thumbnails.files)


def _tasks(result: SavedResult) -> Tasks:
    """Return a result's tasks, which must be of the queries that its figures are of."""
    tasks = read_tasks(result.folder)
    known = result.per_query.ids if result.per_query else {}
    if not all(task.ids == known.get(name) for name, task in tasks.items()):
        raise DataError(f"{result.folder / PER_QUERY} changed while it was read: {AGAIN}")
    return tasks


def _known(results: Sequence[SavedResult], suite: Suite | None) -> tuple[Shown, list[str]]:
    """Return what is known of queries and entries, from the suite or else from both pages, and what is missing."""
    if suite is not None:
        if suite.fingerprint() != results[0].fingerprint:
            raise DataError(
                f"{suite.title}, as it lies there, is not what {results[0].folder} was measured on: ids, words or "
                "targets differ; give the files that it was measured on"
            )
        return shown_by_suite(suite), []
    queries: dict[Key, Asked] = {}
    entries: dict[Hashable, Entry] = {}
    notes = []
    for result in results:
        try:
            shown = shown_by_page(result.folder / REPORT, result.fingerprint)
        except DataError as error:
            notes.append(f"Words and pictures of {result.folder} are missing: {error}, or give --data.")
            continue
        _take(queries, shown.asked)
        _take(entries, shown.entries)
    return Shown(queries, entries), notes


def _take(known: dict[Any, Any], more: Mapping[Any, Asked | Entry]) -> None:
    """Take what is not known yet, or is shown with more pictures: each page has left out others."""
    for key, one in more.items():
        if key not in known or _pictures(one) > _pictures(known[key]):
            known[key] = one


def _pictures(one: Asked | Entry) -> int:
    return sum(isinstance(picture, Kept) and isinstance(picture.file, str) for picture in one.pictures)


def _all_entries(known: Shown, tasks: Sequence[Tasks]) -> dict[Hashable, Entry]:
    """Return all entries that the results name: what is not known has an id alone."""
    entries = dict(known.entries)
    for run in tasks:
        for name, task in run.items():
            for row in task.rows.values():
                for answers in row.answers:
                    for answer in answers:
                        if (name, answer) not in entries:
                            entries[name, answer] = Entry(answer)
    return entries


def _keys(tasks: Tasks) -> list[Key]:
    """Return the queries in order; where they are too many for one page, as many, evenly spread."""
    every = [(name, query) for name, task in tasks.items() for query in task.ids]
    if len(every) <= MOST_QUERIES:
        return every
    return [every[at * len(every) // MOST_QUERIES] for at in range(MOST_QUERIES)]


def _rows(runs: Sequence[Tasks], names: Sequence[str], keys: Sequence[Key], whole: Collection[str]) -> Iterator[Row]:
    """Yield each row of the table, of both results one after the other; `whole`: metrics of no single query."""
    asking = {task.asking for run in runs for task in run.values()}
    place = _places(runs[0])
    for name in dict.fromkeys(row for run in runs for task in run.values() for row in task.rows):
        for number, run in enumerate(runs):
            found = [(key[0], run[key[0]].rows.get(name), place[key]) for key in keys]
            if any(own for _, own, _ in found):
                yield _row(f"{names[number]}: {name}", number, part_of(name, asking), found, whole)


def _row(name: str, run: int, part: str, found: Sequence[_Found], whole: Collection[str]) -> Row:
    """Return a row, of which each query has a task, what its result keeps of the row, and its place in that."""
    metrics = dict.fromkeys(metric for _, own, _ in found if own for metric in own.values)
    return Row(
        name=name,
        run=run,
        part=part,
        answers=[_answers(task, own.answers[at]) if own else None for task, own, at in found],
        ranks=[own.ranks[at] if own else None for _, own, at in found],
        values={metric: _column(found, metric) for metric in metrics if metric not in whole},
    )


def _found_alone(runs: Sequence[Tasks], names: Sequence[str], keys: Sequence[Key]) -> Iterator[dict[str, Any]]:
    """Yield by which half each query is found alone in each result that says it."""
    place = _places(runs[0])
    for name, run in zip(names, runs, strict=True):
        for metric in dict.fromkeys(task.audited for task in run.values() if task.labels):
            known = {task for task, own in run.items() if own.labels and own.audited == metric}
            labels = [[run[key[0]].labels[place[key]]] if key[0] in known else [] for key in keys]
            yield facet(f"{name}: found at {metric} by", labels, measured=True, chips=False)


def _places(tasks: Tasks) -> dict[Key, int]:
    """Return where each query stands in its task, in both results alike."""
    return {(name, query): at for name, task in tasks.items() for at, query in enumerate(task.ids)}


def _answers(task: str, ids: Sequence[str]) -> list[Hashable]:
    return [(task, name) for name in ids]


def _column(found: Sequence[_Found], metric: str) -> list[float | None]:
    return [own.values[metric][at] if own and metric in own.values else None for _, own, at in found]


def _who(name: str, result: SavedResult) -> str:
    return f"{name}: {result.model}" if result.model and result.model != name else name


def _plain(block: Block) -> dict[str, Any]:
    """Return a block as plain values."""
    if isinstance(block, ReportTable):
        return {
            "head": list(block.head),
            "rows": [list(row) for row in block.rows],
            "best": sorted(map(list, block.best)),
        }
    return {"heading": block} if isinstance(block, Heading) else {"text": block}
