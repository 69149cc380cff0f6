"""Files for the servers that hold the hidden labels of CIRR test1 and CIRCO test, checked as the servers check them.

Formats: CIRR's Test-split_server.md (Cuberick-Orion/CIRR@000e433) and CIRCO's README (miccunifi/CIRCO@267b5c9). Both
first servers have been down for days (CIRR's issues 24, 25 and 28, CIRCO's 2 to 10); each has a second.
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
from ..scoring.suite import Suite, Task

LIMIT = 5 * 2**20  # bytes; CIRR's server takes no larger file


@dataclass(frozen=True)
class Part:
    """One file of a submission.

    Attributes:
        file: its name.
        view: the position of the task's view that it ranks.
        length: of each of its lists.
        header: its fixed entries.
        entry: gallery id -> how the file writes it.
        limited: whether the server takes no file above LIMIT.
    """

    file: str
    view: int
    length: int
    header: Mapping[str, str]
    entry: Callable[[str], Any] = str
    limited: bool = False


@dataclass(frozen=True)
class Server:
    """Where files are uploaded.

    Attributes:
        address: of the page.
        takes: the form in which it takes them.
        source: where its authors name it.
    """

    address: str
    takes: str
    source: str


SERVERS: dict[str, tuple[Server, ...]] = {
    "cirr": (
        Server("http://cirr.cecs.anu.edu.au", "each file by itself, as JSON", "CIRR's Test-split_server.md"),
        Server("https://cirr.junjie.au", "each file by itself, as JSON", "CIRR's Test-split_server.md, October 2025"),
    ),
    "circo": (
        Server("https://circo.micc.unifi.it/evaluation", "the file as JSON; figures come by e-mail", "CIRCO's README"),
        # the competition's own page could not be read: what it wants within an archive is not known here
        Server(
            "https://www.codabench.org/competitions/10055",
            "Codabench takes archives: zip the file, under the name that the competition's page asks for",
            "CIRCO's authors, in issue 10 of miccunifi/CIRCO, March 2026",
        ),
    ),
}
SUBMISSIONS: dict[str, tuple[Part, ...]] = {
    "cirr": (
        Part("recall.json", 0, 50, {"version": "rc2", "metric": "recall"}, limited=True),
        Part("recall_subset.json", 1, 3, {"version": "rc2", "metric": "recall_subset"}, limited=True),
    ),
    "circo": (Part("circo.json", 0, 50, {}, int),),  # its ids are numbers
}


def submission_of(suite: Suite, vectors: Mapping[str, Vectors]) -> dict[str, dict[str, Any]]:
    """Return the content of each file, by its name: the best gallery ids of every query, in the server's format.

    Raises:
        ConfigError: the benchmark has no server. DataError: vectors that cannot be ranked.
    """
    parts = _parts(suite)
    (task,) = suite.tasks
    return {part.file: {**part.header, **_lists(part, task, vectors[task.name])} for part in parts}


def _lists(part: Part, task: Task, vectors: Vectors) -> dict[str, list[Any]]:
    queries = vectors.rows[task.query_kind]
    answers = answers_of(task.views[part.view], queries, vectors.gallery, part.length)
    lists = {}
    for query, row in zip(task.query_ids, answers.tolist(), strict=True):
        lists[query] = [part.entry(task.gallery_ids[at]) for at in row if at >= 0]
    return lists


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
        _check_part(part, task, contents[part.file])


def _check_part(part: Part, task: Task, content: Mapping[str, Any]) -> None:
    for key, value in part.header.items():
        if content.get(key) != value:
            raise DataError(f'{part.file}: "{key}" must be "{value}", not {content.get(key)!r}')
    lists = {key: value for key, value in content.items() if key not in part.header}
    _check_queries(part, task, lists)
    for number, query in enumerate(task.query_ids):
        names = _names(part, query, lists[query])
        _check_places(part, task, number, names)
    size = len(_encoded(content))
    if part.limited and size > LIMIT:
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
    """Return submission files by the part that they are: CIRR's by their metric, one without a metric is CIRCO's.

    Raises:
        DataError: a file is missing or no JSON object.
    """
    contents: dict[str, dict[str, Any]] = {}
    for path in paths:
        content = _read(path)
        name = f"{content['metric']}.json" if "metric" in content else SUBMISSIONS["circo"][0].file
        if name in contents:
            raise DataError(f"{path} is a second {name}: give each file of a submission once")
        if "metric" in content and path.stat().st_size > LIMIT:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes; the server takes {LIMIT:,}")
        contents[name] = content
    return contents


def read_ranking(path: Path) -> dict[str, list[str]]:
    """Return the ranked lists of a file, as `score_rankings` takes them; fixed entries of CIRR's files are skipped.

    Raises:
        DataError: the file is missing, or is no JSON object of lists.
    """
    content = {key: value for key, value in _read(path).items() if key not in ("version", "metric")}
    for key, value in content.items():
        if not isinstance(value, list):
            raise DataError(f'{path}: "{key}" must be a list of gallery ids, best first')
    return {key: list(map(str, value)) for key, value in content.items()}


def uploads(suite: Suite) -> list[str]:
    """Return lines that tell where the files of a submission go, first the first server. Raise as `need_server`."""
    files = " and ".join(part.file for part in _parts(suite))
    first, *others = SERVERS[suite.name]
    lines = [f"upload {files} to {first.address} ({first.takes}; {first.source})"]
    return lines + [f"  or, where that is down, to {one.address} ({one.takes}; {one.source})" for one in others]


def need_server(suite: Suite) -> None:
    """Raise ConfigError for a benchmark without a server, or a split whose labels are no secret."""
    if suite.name not in SUBMISSIONS:
        raise ConfigError(f"{suite.name} has no server; there are servers for {' and '.join(SUBMISSIONS)}")
    if suite.labelled:
        raise ConfigError(f"{suite.title} needs no server: `mllm-embed-eval run` and `score` measure it here")


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path, "give a JSON object: query id -> list of gallery ids")
    if not isinstance(content, dict):
        raise DataError(f"{path} must be a JSON object: query id -> list of gallery ids")
    return content


def _parts(suite: Suite) -> tuple[Part, ...]:
    need_server(suite)
    return SUBMISSIONS[suite.name]


def _check_queries(part: Part, task: Task, lists: Mapping[str, Any]) -> None:
    missing = [query for query in task.query_ids if query not in lists]
    if missing:
        count = f"{len(missing):,} of {len(task.query_ids):,}"
        raise DataError(f'{part.file}: {count} queries are missing, first "{missing[0]}"')
    strange = sorted(set(lists) - set(task.query_ids))
    if strange:
        raise DataError(f'{part.file}: the query "{strange[0]}" does not exist in this split')


def _names(part: Part, query: str, given: Any) -> list[str]:
    """Return the gallery ids of a query's list. Raise DataError for another length, and a picture named twice."""
    if not isinstance(given, list) or len(given) != part.length:
        length = len(given) if isinstance(given, list) else "no list"
        raise DataError(f"{_where(part, query)} must have {part.length} entries, not {length}")
    names = [str(name) for name in given]
    if len(set(names)) < len(names):
        raise DataError(f"{_where(part, query)} names a picture twice")
    return names


def _check_places(part: Part, task: Task, number: int, names: Sequence[str]) -> None:
    """Raise DataError for a picture that is not in the gallery, or that the view leaves out for this query."""
    view, where = task.views[part.view], _where(part, task.query_ids[number])
    for name in names:
        if name not in task.positions:
            raise DataError(f'{where} names "{name}", which is not in the gallery')
    places = {task.positions[name] for name in names}
    if view.exclude is not None and places & set(view.exclude[number]):
        raise DataError(f"{where} names the query's own reference picture")
    if view.candidates is not None and not places <= set(view.candidates[number]):
        raise DataError(f"{where} names a picture outside the query's set")


def _where(part: Part, query: str) -> str:
    return f'{part.file}: the list of query "{query}"'


def _encoded(content: Mapping[str, Any]) -> bytes:
    # one text for the check of the size and for the file
    return json.dumps(content, sort_keys=True).encode()
