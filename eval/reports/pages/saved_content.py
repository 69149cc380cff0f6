"""What result folders keep of their queries: the answers of per_query.json, and what their pages show of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError
from mllm_embed.files import read_json

from ...scoring.suite import Suite
from ..composition import FOUND_BY
from ..report import PER_QUERY, RESULT
from ..saved_result import AGAIN, SavedResult
from .content import Asked, Entry
from .html_page import read_page
from .suite_content import asked, entries_of
from .thumbnails import Kept

# what reading content of another format raises
_OTHER_FORMAT = (KeyError, TypeError, ValueError, AttributeError, IndexError)


@dataclass(frozen=True)
class SavedRow:
    """One row of a task: for each query its answers' ids, its best target's rank and each metric's value.

    A rank is 0 where a given list lacks the targets; all are None in results that keep no ranks.
    """

    answers: Sequence[Sequence[str]]
    ranks: Sequence[int | None]
    values: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class SavedTask:
    """A task of per_query.json.

    Attributes:
        ids: of the queries.
        asking: the row that asked with the whole of them.
        rows: by name.
        audited: the metric at which the halves were looked at; "" where they were not.
        labels: by which half each query is found alone at that; empty where nobody looked.
    """

    ids: Sequence[str]
    asking: str
    rows: Mapping[str, SavedRow]
    audited: str
    labels: Sequence[str]


@dataclass(frozen=True)
class Shown:
    """What is known of queries and entries: (task, id) -> either."""

    asked: Mapping[tuple[str, str], Asked]
    entries: Mapping[Hashable, Entry]


def read_tasks(folder: Path) -> dict[str, SavedTask]:
    """Return the tasks of FOLDER/per_query.json; of results that kept no more, only the row as asked.

    What counts by which turn sessions find something is left out: its queries are those of the turns once more.

    Raises:
        DataError: it is missing, unreadable, or of another format.
    """
    file = folder / PER_QUERY
    content, result = read_json(file, AGAIN), read_json(folder / RESULT, AGAIN)
    try:
        shown = [name for name in content["tasks"] if name not in result.get("turns to find", ())]
        return {name: _task(content["tasks"][name], result["tasks"][name]) for name in shown}
    except _OTHER_FORMAT as error:
        raise DataError(f"{file} is not of this version ({error!r}): {AGAIN}") from error


def _task(part: Mapping[str, Any], figures: Mapping[str, Any]) -> SavedTask:
    ids = list(map(str, part["ids"]))
    rows = part.get("rows") or {str(part["row"]): part}
    labels = [FOUND_BY[label] for label in part.get("composition", ())]
    if labels and len(labels) != len(ids):
        raise ValueError(f"there are {len(labels)} composition labels for {len(ids)} queries")
    audited = str(next(iter(figures.get("composition", ())), ""))
    kept = {str(name): _row(own, len(ids)) for name, own in rows.items()}
    return SavedTask(ids, str(part["row"]), kept, audited, labels)


def _row(part: Mapping[str, Any], count: int) -> SavedRow:
    answers = [list(map(str, own)) for own in part["answers"]]
    ranks = [None if rank is None else int(rank) for rank in part.get("ranks") or [None] * count]
    values = {str(metric): list(map(float, own)) for metric, own in part["metrics"].items()}
    if {len(answers), len(ranks), *map(len, values.values())} != {count}:
        raise ValueError(f"a row has not one entry for each of {count} queries")
    return SavedRow(answers, ranks, values)


def shown_by_suite(suite: Suite) -> Shown:
    """Return all queries and entries of an opened benchmark."""
    queries = {}
    for task in suite.tasks:
        for position, name in enumerate(task.query_ids):
            queries[task.name, name] = asked(task, position, len(suite.tasks))
    return Shown(queries, dict(entries_of(suite)))


def chosen_as(suite: Suite, result: SavedResult) -> Suite:
    """Return a whole benchmark with the tasks and queries alone that a result is of, where those were chosen."""
    names = {task for task, _ in result.columns.values()}
    tasks = tuple(task for task in suite.tasks if task.name in names)
    # `methods` measures composed queries alone
    suite = replace(suite, tasks=tasks, means=()) if 0 < len(tasks) < len(suite.tasks) else suite
    if not result.chosen or result.per_query is None:
        return suite
    members = {}
    for task in suite.tasks:
        place = {name: at for at, name in enumerate(task.query_ids)}
        members[task.name] = [place[name] for name in result.per_query.ids.get(task.name, ()) if name in place]
    return suite.only(members, result.chosen.rpartition(":")[0])


def shown_by_page(path: Path, fingerprint: str) -> Shown:
    """Return what a result's page shows, its thumbnails among it.

    Raises:
        DataError: it is missing, cannot be read, or is no page of this version and of the benchmark with the
            fingerprint.
    """
    data, files = read_page(path)
    if data.get("fingerprint") != fingerprint:
        raise DataError(f"{path} is of another benchmark, or of other files of it: {AGAIN}")
    try:
        return _shown(data, files)
    except _OTHER_FORMAT as error:
        raise DataError(f"{path} is no page of this version ({error!r}): {AGAIN}") from error


def _shown(data: Mapping[str, Any], files: Sequence[str]) -> Shown:
    columns, entries = data["queries"], data["entries"]
    queries: dict[tuple[str, str], Asked] = {}
    found: dict[Hashable, Entry] = {}
    for at, name in enumerate(columns["ids"]):
        task = columns["tasks"][at]
        for own in (columns["targets"][at], *(row["answers"][at] or () for row in data["rows"])):
            for number in own:
                key = (task, entries["ids"][number])
                if key not in found:
                    pictures = _kept(entries["pictures"][number], files, (*key, "entry"))
                    found[key] = Entry(entries["ids"][number], entries["texts"][number], pictures)
        queries[task, name] = Asked(
            id=name,
            task=task,
            words=columns["words"][at],
            text=columns["texts"][at],
            pictures=_kept(columns["pictures"][at], files, (task, name, "query")),
            names=columns["names"][at],
            targets=[(task, entries["ids"][number]) for number in columns["targets"][at]],
            size=columns["sizes"][at],
            labels={facet["name"]: _labels(facet, at) for facet in data["facets"] if not facet["measured"]},
        )
    return Shown(queries, found)


def _labels(facet: Mapping[str, Any], query: int) -> list[str]:
    return [facet["values"][number] for number in facet["of"][query]]


def _kept(places: Sequence[int], files: Sequence[str], of: Hashable) -> list[Kept]:
    """Return thumbnails of another page; `of` tells those apart that it lacks."""
    return [Kept(files[place]) if place >= 0 else Kept(place, (of, at)) for at, place in enumerate(places)]
