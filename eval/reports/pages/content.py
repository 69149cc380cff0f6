"""What a page shows of queries and galleries: each entry and picture once, and how much each picture is seen."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .thumbnails import Picture, Thumbnails, Wanted

TARGETS = 6  # that the page shows at once
# How much a picture is seen, which decides which ones have a thumbnail where not all have room: the question first.
_REFERENCE, _TARGET, _FURTHER_TARGET, _HIDDEN_ROW = 100.0, 2.0, 0.2, 0.1
_FURTHER = 0.25  # the further pictures of one entry, of what the first is


@dataclass(frozen=True)
class Entry:
    """An entry of a gallery: its id, its text where it has one, its pictures."""

    id: str
    text: str | None = None
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Asked:
    """A query as it is shown.

    Attributes:
        id: in its task.
        task: the task's name.
        words: the instruction, or several wordings.
        text: what stands for a reference picture; None for nothing.
        pictures: of the reference.
        names: of those pictures, "" for one without.
        targets: keys of entries.
        size: how many entries take part in its ranking; None where nobody knows.
        labels: facet -> values, such as its kinds.
    """

    id: str
    task: str
    words: Sequence[str] = ()
    text: str | None = None
    pictures: Sequence[Picture] = ()
    names: Sequence[str] = ()
    targets: Sequence[Hashable] = ()
    size: int | None = None
    labels: dict[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What queries were answered in one row of the table; None for a query that has no such row.

    Attributes:
        name: of the row.
        run: which result it is of.
        part: "asked" for the whole query, "half" for its picture or its words alone, "other" for what is not shown at
            first.
        answers: keys of entries, best first, for each query.
        ranks: of the best target, from 1; 0 where a given list lacks it, None where nobody knows.
        values: metric -> value of each query.
    """

    name: str
    run: int
    part: str
    answers: Sequence[Sequence[Hashable] | None]
    ranks: Sequence[int | None]
    values: dict[str, Sequence[float | None]]


@dataclass
class Content:
    """Collects what a page shows, by numbers: entries as they are first named, and their pictures in `wanted`.

    Attributes:
        entries: key -> entry, for all that rows and queries name.
        shown: part of a row whose answers are seen at first.
    """

    entries: dict[Hashable, Entry]
    wanted: Wanted = field(default_factory=Wanted)
    _numbers: dict[Hashable, int] = field(default_factory=dict, repr=False)
    _pictures: list[list[int]] = field(default_factory=list, repr=False)

    def row(self, row: Row, shown: bool) -> dict[str, Any]:
        """Return a row as plain values; `shown`: at first, not only when somebody asks for it."""
        first = 1.0 if shown else _HIDDEN_ROW
        answers = [own if own is None else self._ranked(own, first) for own in row.answers]
        values = [[metric, list(map(_short, own))] for metric, own in row.values.items()]
        plain = {"name": row.name, "run": row.run, "part": row.part, "shown": shown}
        return {**plain, "answers": answers, "ranks": list(row.ranks), "values": values}

    def queries(self, asked: Iterable[Asked]) -> dict[str, list[Any]]:
        """Return queries as plain values, a list for each thing that is known of them; pictures by their numbers."""
        names = ("ids", "tasks", "words", "texts", "pictures", "names", "targets", "sizes")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for query in asked:
            targets = [self._add(key, _target_weight(at)) for at, key in enumerate(query.targets)]
            pictures = self._seen(query.pictures, _REFERENCE)
            said = (query.id, query.task, list(query.words), query.text)
            own = (*said, pictures, list(query.names), targets, query.size)
            for name, value in zip(names, own, strict=True):
                columns[name].append(value)
        return columns

    def plain_entries(self, thumbnails: Thumbnails) -> dict[str, list[Any]]:
        """Return all entries that were named as plain values, pictures by the places of their thumbnails."""
        entries = [self.entries[key] for key in self._numbers]
        return {
            "ids": [entry.id for entry in entries],
            "texts": [entry.text for entry in entries],
            "pictures": thumbnails.placed(self._pictures),
        }

    def _ranked(self, keys: Sequence[Hashable], first: float) -> list[int]:
        return [self._add(key, first / place) for place, key in enumerate(keys, start=1)]

    def _add(self, key: Hashable, weight: float) -> int:
        """Return the number of an entry, which is shown in one more place of a weight."""
        number = self._numbers.setdefault(key, len(self._numbers))
        pictures = self._seen(self.entries[key].pictures, weight)
        if number == len(self._pictures):
            self._pictures.append(pictures)
        return number

    def _seen(self, pictures: Sequence[Picture], weight: float) -> list[int]:
        weights = [weight] + [weight * _FURTHER] * (len(pictures) - 1)
        return [self.wanted.add(picture, own) for picture, own in zip(pictures, weights, strict=False)]


def facets(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Return what tells queries apart by the benchmark, as `facet` makes it."""
    names = dict.fromkeys(name for query in asked for name in query.labels)
    return [facet(name, _labels(name, asked)) for name in names]


def _labels(name: str, asked: Sequence[Asked]) -> list[Sequence[str]]:
    return [query.labels.get(name, ()) for query in asked]


def facet(name: str, labels: Sequence[Sequence[str]], measured: bool = False, chips: bool = True) -> dict[str, Any]:
    """Return what tells queries apart: the values, the most frequent first, and each query's by their numbers.

    Args:
        name: of the facet.
        labels: of each query.
        measured: whether a result says so, not the benchmark.
        chips: whether the values stand in the query's card.
    """
    counts: dict[str, int] = {}
    for own in labels:
        for label in own:
            counts[label] = counts.get(label, 0) + 1
    values = sorted(counts, key=lambda label: (-counts[label], label))
    number = {label: at for at, label in enumerate(values)}
    of = [list(map(number.__getitem__, own)) for own in labels]
    return {"name": name, "values": values, "of": of, "measured": measured, "chips": chips}


def _target_weight(at: int) -> float:
    if at >= TARGETS:
        return 0.0
    return _FURTHER_TARGET if at else _TARGET


def _short(value: float | None) -> float | None:
    # a whole number is shorter without ".0"
    return int(value) if value is not None and float(value).is_integer() else value
