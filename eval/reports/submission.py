"""Files for the servers that hold the hidden labels of CIRR test1 and CIRCO test, checked as the servers check them.

Formats: CIRR's Test-split_server.md (github.com/Cuberick-Orion/CIRR) and CIRCO's README (github.com/miccunifi/CIRCO).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import read_json, write_file

from ..scoring.score import Vectors, answers_of
from ..scoring.suite import Suite, Task, View

LIMIT = 5 * 2**20  # bytes; CIRR's server takes no larger file


@dataclass(frozen=True)
class Part:
    """One file of a submission: its name, the view of the task that it ranks, its lists' length, its fixed entries."""

    file: str
    view: int
    length: int
    header: Mapping[str, str]
    entry: Callable[[str], Any] = str


SUBMISSIONS: dict[str, tuple[Part, ...]] = {
    "cirr": (
        Part("recall.json", 0, 50, {"version": "rc2", "metric": "recall"}),
        Part("recall_subset.json", 1, 3, {"version": "rc2", "metric": "recall_subset"}),
    ),
    "circo": (Part("circo.json", 0, 50, {}, int),),
}


def submission_of(suite: Suite, vectors: Mapping[str, Vectors]) -> dict[str, dict[str, Any]]:
    """What each file holds, by file name: the best gallery ids of every query, in the server's format.

    Raises:
        ConfigError: the benchmark has no server. DataError: vectors that cannot be ranked.
    """
    parts = _parts(suite)
    (task,) = suite.tasks
    made = vectors[task.name]
    contents = {}
    for part in parts:
        answers = answers_of(task.views[part.view], made.rows[task.asked], made.gallery, part.length)
        lists = {
            query: [part.entry(task.gallery_ids[at]) for at in row if at >= 0]
            for query, row in zip(task.query_ids, answers.tolist(), strict=True)
        }
        contents[part.file] = {**part.header, **lists}
    return contents


def check_submission(suite: Suite, contents: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what a server would: wrong files, headers, queries, lengths, doubles, unknown ids, excluded ids, size.

    Raises:
        DataError: the file and the query are named.
    """
    parts = _parts(suite)
    (task,) = suite.tasks
    wanted = {part.file for part in parts}
    if set(contents) != wanted:
        names = [" and ".join(sorted(files)) for files in (wanted, contents)]
        raise DataError(f"a submission to {suite.name} is {names[0]}, not {names[1]}")
    for part in parts:
        content = contents[part.file]
        for key, value in part.header.items():
            if content.get(key) != value:
                raise DataError(f'{part.file}: "{key}" must be "{value}", not {content.get(key)!r}')
        lists = {key: value for key, value in content.items() if key not in part.header}
        _check_queries(part, task, lists)
        for number, query in enumerate(task.query_ids):
            _check_list(part, task, task.views[part.view], number, lists[query])
        size = len(_encoded(content))
        if size > LIMIT:
            raise DataError(f"{part.file} has {size:,} bytes; the server takes {LIMIT:,}")


def write_submission(suite: Suite, vectors: Mapping[str, Vectors], folder: Path) -> list[Path]:
    """Rank, check, and write the files of a submission.

    Raises:
        As `submission_of` and `check_submission`; nothing is written then.
    """
    contents = submission_of(suite, vectors)
    check_submission(suite, contents)
    for name, content in contents.items():
        write_file(folder / name, _encoded(content))
    return [folder / name for name in contents]


def read_submission(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Submission files by the part that they are: CIRR's by their metric, one without a metric is CIRCO's.

    Raises:
        DataError: a file is missing or no JSON object.
    """
    contents: dict[str, dict[str, Any]] = {}
    for path in paths:
        content = _read(path)
        name = f"{content['metric']}.json" if "metric" in content else SUBMISSIONS["circo"][0].file
        if name in contents:
            raise DataError(f"{path} is a second {name}: give each file of a submission once")
        if path.stat().st_size > LIMIT:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes; the server takes {LIMIT:,}")
        contents[name] = content
    return contents


def read_ranking(path: Path) -> dict[str, list[str]]:
    """Ranked lists of a file, as `eval.score.score_rankings` takes them; the fixed entries of CIRR's files are skipped.

    Raises:
        DataError: the file is missing, or is no JSON object of lists.
    """
    content = {key: value for key, value in _read(path).items() if key not in ("version", "metric")}
    for key, value in content.items():
        if not isinstance(value, list):
            raise DataError(f'{path}: "{key}" must be a list of gallery ids, best first')
    return {key: [str(name) for name in value] for key, value in content.items()}


def need_server(suite: Suite) -> None:
    """Raises ConfigError for a benchmark without a server, or a split whose labels are no secret."""
    if suite.name not in SUBMISSIONS:
        raise ConfigError(f"{suite.name} has no server; there are servers for {' and '.join(SUBMISSIONS)}")
    if suite.labelled:
        raise ConfigError(f"{suite.title} needs no server: `python -m eval run` and `score` measure it here")


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path, "give a JSON object: query id -> list of gallery ids")
    if not isinstance(content, dict):
        raise DataError(f"{path} must be a JSON object: query id -> list of gallery ids")
    return content


def _parts(suite: Suite) -> tuple[Part, ...]:
    need_server(suite)
    return SUBMISSIONS[suite.name]


def _check_queries(part: Part, task: Task, lists: Mapping[str, Any]) -> None:
    lost = [query for query in task.query_ids if query not in lists]
    if lost:
        raise DataError(f'{part.file}: {len(lost):,} of {len(task.query_ids):,} queries are missing, first "{lost[0]}"')
    strange = sorted(set(lists) - set(task.query_ids))
    if strange:
        raise DataError(f'{part.file}: the query "{strange[0]}" does not exist in this split')


def _check_list(part: Part, task: Task, view: View, number: int, found: Any) -> None:
    where = f'{part.file}: the list of query "{task.query_ids[number]}"'
    if not isinstance(found, list) or len(found) != part.length:
        length = len(found) if isinstance(found, list) else "no list"
        raise DataError(f"{where} must have {part.length} entries, not {length}")
    names = [str(name) for name in found]
    if len(set(names)) < len(names):
        raise DataError(f"{where} names a picture twice")
    strange = [name for name in names if name not in task.place]
    if strange:
        raise DataError(f'{where} names "{strange[0]}", which is not in the gallery')
    places = {task.place[name] for name in names}
    if view.exclude is not None and places & set(view.exclude[number]):
        raise DataError(f"{where} names the query's own reference picture")
    if view.candidates is not None and not places <= set(view.candidates[number]):
        raise DataError(f"{where} names a picture outside the query's set")


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
