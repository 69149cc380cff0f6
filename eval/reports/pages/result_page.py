"""The page of one result: its figures, and every query with its reference, its words and the answers of every row."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...scoring.composition import HALVES
from ...scoring.result import Result, TaskResult
from ...scoring.suite import Suite, Task
from ..composition import FOUND_BY
from ..report import Lines, result_blocks, tied_notes
from . import MEGABYTES
from .content import Content, Row, facet, facets
from .html_page import REPORT, write_page
from .suite_content import Position, asked, entries_of, entry_key, some_queries, targets_of
from .thumbnails import make_thumbnails

_Found = tuple[Task, int, TaskResult | None]  # a query, and its task's result where it has the row


def write_report(
    result: Result,
    suite: Suite,
    folder: Path,
    settings: Mapping[str, Any],
    megabytes: float = MEGABYTES,
    progress: bool | None = None,
) -> Path:
    """Write FOLDER/report.html, one file with all in it, for a browser.

    Args:
        result: of the suite.
        suite: whose pictures are shown as far as they can be read.
        folder: the result folder.
        settings: as `report.write_result` takes them.
        megabytes: of thumbnails, as they stand in the page.
        progress: whether to show a bar while they are made; None shows one on a terminal.

    Returns:
        The path.

    Raises:
        DataError: it cannot be written.
    """
    queries = some_queries(suite)
    shown = [asked(*position, len(suite.tasks)) for position in queries]
    content = Content(dict(entries_of(suite)))
    rows = [content.row(row, row.part != "other") for row in _rows(result, queries)]
    plain = content.queries(shown)
    thumbnails = make_thumbnails(content.wanted, megabytes, progress)
    plain["pictures"] = thumbnails.placed(plain["pictures"])
    notes = [*tied_notes(result), *_left_out(suite, len(queries))]
    if content.wanted.pictures:
        notes.append(thumbnails.note(megabytes))
    data = {
        "kind": "result",
        "fingerprint": result.fingerprint,
        "title": result.title,
        "about": _about(result, settings),
        "blocks": list(_blocks(result)),
        "protocol": list(_flat(result.protocol)),
        "notes": notes,
        "runs": [""],
        "lower": list(result.lower),
        # the benchmark's own K first
        "measure": next((metric for task in result.tasks.values() for metric in task.composition), None),
        "rows": rows,
        "facets": [*facets(shown), *_found_alone(result, queries)],
        "entries": content.plain_entries(thumbnails),
        "queries": plain,
    }
    return write_page(folder / REPORT, data, thumbnails.files)


def _rows(result: Result, queries: Sequence[Position]) -> Iterator[Row]:
    """Yield the rows of all tasks."""
    asking = {task.query_kind for task, _ in queries}
    for name in dict.fromkeys(name for task in result.tasks.values() for name in task.rows):
        part = part_of(name, asking)
        own = [(task, position, _of(task, name, result)) for task, position in queries]
        yield Row(
            name=name,
            run=0,
            part=part,
            answers=[
                _answers(task, found.row_answers[name][at].tolist()) if found else None for task, at, found in own
            ],
            ranks=[_rank(task, at, found.row_ranks[name][at]) if found else None for task, at, found in own],
            values={metric: _column(own, name, metric) for metric in _metrics(name, result)},
        )


def part_of(row: str, asking: Collection[str]) -> str:
    """Return what a row is to a page; `asking`: the rows that asked with the whole of the query."""
    if row in asking:
        return "asked"
    return "half" if row in HALVES else "other"


def _found_alone(result: Result, queries: Sequence[Position]) -> Iterator[dict[str, Any]]:
    """Yield by which half each query is found alone, at each audited metric."""
    metrics = dict.fromkeys(metric for task in result.tasks.values() for metric in task.composition)
    for number, metric in enumerate(metrics):
        labels: list[list[str]] = []
        for task, position in queries:
            audit = result.tasks[task.name].composition.get(metric)
            labels.append([] if audit is None else [FOUND_BY[audit.labels[position]]])
        yield facet(f"found at {metric} by", labels, measured=True, chips=not number)


def _of(task: Task, row: str, result: Result) -> TaskResult | None:
    """Return a task's result, where it has the row."""
    found = result.tasks[task.name]
    return found if row in found.rows else None


def _answers(task: Task, positions: Sequence[int]) -> list[Hashable]:
    return [entry_key(task, at) for at in positions if at >= 0]


def _rank(task: Task, position: int, rank: Any) -> int | None:
    return int(rank) if targets_of(task, position) else None


def _metrics(row: str, result: Result) -> list[str]:
    """Return the metrics that a row has in any task, those that papers print first."""
    names = dict.fromkeys(metric for task in result.tasks.values() for metric in task.row_values.get(row, ()))
    # of single queries, and of those that a filter leaves, the others say nothing
    names = dict.fromkeys(name for name in names if name not in result.whole)
    return sorted(names, key=lambda name: bool(result.printed) and name not in result.printed)


def _column(queries: Sequence[_Found], row: str, metric: str) -> list[float | None]:
    """Return what a metric says of each query in a row; None where its task has no such row or metric."""
    column: list[float | None] = []
    for _, position, found in queries:
        values = found.row_values[row].get(metric) if found else None
        column.append(None if values is None else float(values[position]))
    return column


def _about(result: Result, settings: Mapping[str, Any]) -> str:
    names = [settings.get(key) for key in ("model", "adapter", "query model", "query adapter", "scored")]
    model = " + ".join(str(name) for name in names if name)
    return " · ".join(filter(None, [model, str(result.protocol.get("ties", "ranked lists were given"))]))


def _blocks(result: Result) -> Iterator[dict[str, Any]]:
    for title, parts in result_blocks(result):
        yield {"heading": title}
        yield from ({"text": part.strip()} if isinstance(part, str) else _table(part) for part in parts)


def _table(lines: Lines) -> dict[str, Any]:
    """Return a table as plain values; `minor` rows belong to the one above them."""
    head, *rows = lines
    major = [at for at, row in enumerate(rows) if not row[0].startswith(" ")]
    if len(major) > 1:
        # the groups come last, and are of the first row: under another they would be taken for its own
        rows = [*rows[: major[1]], *rows[major[-1] + 1 :], *rows[major[1] : major[-1] + 1]]
    minor = [at for at, row in enumerate(rows) if row[0].startswith(" ")] if major else []
    return {"head": head, "rows": [list(map(str.strip, row)) for row in rows], "minor": minor}


def _left_out(suite: Suite, shown: int) -> Iterator[str]:
    count = sum(len(task.queries) for task in suite.tasks)
    if shown < count:
        yield (
            f"The page shows {shown:,} of {count:,} queries, evenly spread; the figures are of all of them, and "
            "per_query.json has every one."
        )


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[list[str]]:
    """Yield names and what they say, of a mapping in a mapping by both names."""
    for key, value in values.items():
        name = f"{above} {key}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        elif value is not None:
            yield [name, str(value)]
