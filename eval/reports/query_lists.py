"""Files that name queries, for --only: those of a benchmark that were validated, say, or that need both halves.

A line a query id; or JSON: a list of ids, or an object with such a list for each task. Where a benchmark has several
tasks an id that two of them have is named with its task: dress/12.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_embed.errors import DataError, reason
from mllm_embed.files import parse_json, read_text, write_file

from ..scoring.suite import Suite, Task, column

_FORMS = "give a query id a line, or JSON: a list of ids, or an object with such a list for each task"


def read_query_list(path: Path, suite: Suite) -> dict[str, list[int]]:
    """Return the positions of the queries that a file names, by task.

    Raises:
        DataError: the file cannot be read or names nothing; an id is unknown, stands twice, or is of several tasks.
    """
    place = {task.name: _places(task) for task in suite.tasks}
    members: dict[str, dict[int, str]] = {}
    unknown = []
    for name in _named(path):
        tasks = _tasks_of(name, place, suite.turns, path)
        unknown += [] if tasks else [name]
        for task, own in tasks.items():
            at = place[task][own]
            if at in members.setdefault(task, {}):
                raise DataError(f'{path}: "{name}" stands twice')
            members[task][at] = own
    if unknown:
        first = suite.tasks[0]
        like = column(first.name if len(place) > 1 else "", first.query_ids[0])
        raise DataError(
            f"{path}: {len(unknown):,} ids are unknown to {suite.title}, the first is {unknown[0][:80]!r}; its ids are "
            f'like "{like}"'
        )
    if not members:
        raise DataError(f"{path} names no query: {_FORMS}")
    return {task: list(found) for task, found in members.items()}


def _places(task: Task) -> dict[str, int]:
    return {name: at for at, name in enumerate(task.query_ids)}


def only(path: Path, suite: Suite) -> Suite:
    """Return the suite with the queries alone that a file names. Raises as `read_query_list`."""
    return suite.only(read_query_list(path, suite), list_name(path))


def list_name(path: Path) -> str:
    """Return what a choice of queries is called after its file, in one word."""
    return re.sub(r"[^\w.+-]+", "_", path.stem)


def write_query_list(path: Path, ids: Mapping[str, Sequence[str]]) -> int:
    """Write the ids of queries by task as `read_query_list` reads them, and return how many there are.

    Raises DataError where the file cannot be written.
    """
    names = [column(task, name) for task, own in ids.items() for name in own]
    if all(map(_fits_line, names)):
        text = "".join(f"{name}\n" for name in names)
    else:
        text = json.dumps({task: list(own) for task, own in ids.items()})
    write_file(path, text.encode())
    return len(names)


def _fits_line(name: str) -> bool:
    """Return whether a line says an id as it is, which may hold what ends a line, be empty, or look like JSON."""
    return name.strip() == name and len(name.splitlines()) == 1 and name[0] not in "[{"


def _named(path: Path) -> Iterator[str]:
    """Yield the ids of a file, with their task where it says which."""
    try:
        text = read_text(path, "utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {_FORMS}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: {_FORMS}") from error
    if path.suffix == ".json" or text.lstrip().startswith(("[", "{")):
        yield from _named_in_json(path, text)
    else:
        yield from filter(None, map(str.strip, text.splitlines()))


def _named_in_json(path: Path, text: str) -> Iterator[str]:
    try:
        content = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): {_FORMS}") from error
    by_task = content if isinstance(content, dict) else {"": content}
    for task, names in by_task.items():
        if not isinstance(names, list) or not all(map(_is_id, names)):
            raise DataError(f"{path} is no list of query ids: {_FORMS}")
        yield from (column(task, str(name)) for name in names)


def _is_id(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _tasks_of(name: str, place: Mapping[str, Mapping[str, int]], turns: Sequence[str], path: Path) -> dict[str, str]:
    """Return the tasks that a name is of, and its id there: one, or all turns of a session. Nothing if it is unknown.

    Raises DataError for the id of several tasks.
    """
    task, sign, own = name.partition("/")
    if sign and own in place.get(task, {}):
        return {task: own}
    if name in place.get("", {}):  # the task without a name needs none before its ids
        return {"": name}
    tasks = [task for task, ids in place.items() if name in ids]
    if len(tasks) > 1 and not set(tasks) <= set(turns):
        raise DataError(f'{path}: "{name}" is a query of {", ".join(tasks)}; name the task too: {tasks[0]}/{name}')
    return dict.fromkeys(tasks, name)
