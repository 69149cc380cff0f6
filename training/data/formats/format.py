"""A format is a record that says which of its columns is which of ours, and how to read a cell."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Values = dict[str, Any]
Finish = Callable[[Values], Values]
PICTURES = ("image", "target_image", "negative_image")
TEXTS = ("caption", "instruction", "source_text", "target_text", "target_caption", "negative_text", "avoid")
TASK = "task"
ALSO_IMAGE = "also_image"
"""What a format's `finish` may give beside our columns: pictures that are right as well, and never asked for."""
TASKS = "tasks"
"""What a format's `instructed` gives beside them: the `RowTasks` of a record."""
COLUMNS = ("id", *PICTURES, *TEXTS, TASK)


@dataclass(frozen=True)
class Format:
    """How rows of one data set become ours.

    The columns of a row are: id; the pictures image, target_image, negative_image; the texts caption, instruction,
    source_text, target_text, target_caption (words that belong to the target picture and are no answer alone),
    negative_text, avoid (what must not be seen in the answer); and task, what an embedder of many tasks is told of the
    one that the row asks, which any file may have. A negative may be a list: it is what must not be found. Where any
    other text is a list, each says the same, and one of it is read, another one in each epoch. Where target_image is a
    list, each entry is a right answer, with the entry of target_text and target_caption at its place; one of them is
    asked for in each epoch, and the others are nobody's negatives.
    """

    description: str
    """What file it is, for the table of formats."""
    columns: Mapping[str, str]
    """Our column -> theirs; "a.b" is key b of the object in a."""
    kinds: tuple[str, ...]
    """Which of pairs, triplets, texts its rows can be read as."""
    optional: frozenset[str] = frozenset({"id"})
    """Columns of ours that a file may lack, and a row may leave empty."""
    suffixes: tuple[str, ...] = (".json", ".jsonl")
    """Files that a folder is searched for."""
    header: tuple[str, ...] | None = None
    """Names of the columns of a TSV file that does not name them itself."""
    cells: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Our column -> what reads its cell where that is no plain text, or list of them."""
    extensions: tuple[str, ...] = ()
    """Endings tried in turn for pictures that are named without one."""
    mixed: bool = False
    """Whether rows differ in what they offer, so that those without a needed role are left out when it is opened."""
    finish: Finish | None = None
    """What is left to do with the values of a row."""
    pool: Callable[[Path], Path] | None = None
    """Where the second file that ids point into lies, from the path of the first."""
    join: Callable[[Path], Finish] | None = None
    """Opens that second file; what it returns is `finish`, and replaces ids by what they name."""
    instructed: Callable[[Path | None], Finish | None] | None = None
    """Opens the file of task instructions, None where there is none; what it returns is done after `finish`, and gives
    a record its `RowTasks`."""
    tasks: Callable[[Path], Path] | None = None
    """Where the file of instructions lies in the release, from the path of the first file."""
    hint: str = ""
    """What to know when its pictures are not found."""


def joined(value: Any) -> Any:
    """Return several remarks on one picture as one instruction, without outer punctuation, joined by "and"."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return value
    return " and ".join(filter(None, (text.strip(" .?,") for text in value)))


def answer(picture: Any, words: Any) -> Values:
    """Return the columns of a target: words beside a picture belong to it, and are no answer alone."""
    return {"target_image": picture, "target_caption": words} if picture else {"target_text": words}


def answers(targets: Sequence[Values]) -> Values:
    """Return the columns of a row's right answers: of several a list each, None where one has no such column."""
    if len(targets) < 2:
        return dict(targets[0])
    columns = ("target_image", "target_caption", "target_text")
    return {name: list(map(operator.methodcaller("get", name), targets)) for name in columns}


def second(value: Any) -> Any:
    """Return the path of [number, path]."""
    return value[1] if isinstance(value, list) and len(value) == 2 else value
