"""What rows ask and answer, each distinct input once, so that nothing is embedded or ranked twice.

Of rows only numbers are held: where an input stands, what it is by content, and what is right for what.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
from tqdm import tqdm

from mllm_embed.errors import DataError
from mllm_embed.types import Item, item_key

from ..data import TrainingRow
from ..data.numbers import number_of
from .pictures import PictureContents
from .siblings import Siblings

SHOWN_ROWS = 5  # of those that cannot be made


class ItemsOfRows(Sequence[Item]):
    """Items by where they stand, each made of its row when it is asked for.

    Args:
        rows: gives the row of a number.
        numbers: [n] int64, the row of each item.
        roles: [n] int8, which of `names` it plays there.
        names: of roles.
    """

    def __init__(self, rows: Sequence[TrainingRow], numbers: np.ndarray, roles: np.ndarray, names: Sequence[str]):
        self.rows, self.numbers, self.roles, self.names = rows, numbers, roles, list(names)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Return one, or some. Raises DataError where the rows have changed since they were counted."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        number, role = self.place(index)
        return self.rows[number].roles[role]

    def __iter__(self) -> Iterator[Item]:
        return (self[at] for at in range(len(self)))

    def at(self, places: np.ndarray | slice) -> ItemsOfRows:
        """Return some of them, [m] int64 or a slice."""
        return ItemsOfRows(self.rows, self.numbers[places], self.roles[places], self.names)

    def place(self, index: int) -> tuple[int, str]:
        """Return the number of the row that an item stands in, and its role there."""
        return int(self.numbers[index]), self.names[self.roles[index]]


@dataclass(frozen=True)
class Unmade:
    """The rows that could not be made: how many, and why the first few."""

    count: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Questions:
    """The queries and answers of R rows, each distinct input once. A picture that stands under two names is one.

    Args:
        queries: Q items; rows that ask the same share one.
        gallery: N items; the first `answers` of them are the positive of some row.
        rows: [R] int64, the rows' numbers, without those that cannot be made.
        query, positive: [R] int64, the place of each row's own in these lists.
        answers: how many gallery items are positives.
        right_starts, right_places: [Q + 1] and [P] int64: what is right for query q is
            `right_places[right_starts[q] : right_starts[q + 1]]`, increasing.
        siblings: which places answer another question on the same picture.
        digest: sha256 over what is asked and found, in order: by it vectors are known as theirs.
        unmade: the rows left out.
    """

    queries: ItemsOfRows
    gallery: ItemsOfRows
    rows: np.ndarray
    query: np.ndarray
    positive: np.ndarray
    answers: int
    right_starts: np.ndarray
    right_places: np.ndarray
    siblings: Siblings
    digest: str
    unmade: Unmade = field(default_factory=Unmade)

    @classmethod
    def of(
        cls,
        rows: Sequence[TrainingRow],
        query: str,
        positive: str,
        also: Sequence[str] = (),
        contents: PictureContents | None = None,
    ) -> Questions:
        """Return what `Scan` finds in the roles `query`, `positive` and `also` of rows. Raises as it does."""
        return Scan(rows, [query, positive, *also], contents or PictureContents()).questions()

    def with_candidates(self, count: int, seed: int) -> Questions:
        """Return the same questions to fewer candidates: the rows' own positives, and up to `count` that are drawn."""
        drawn = np.random.default_rng(seed).permutation(len(self.gallery))[:count]
        kept = np.union1d(self.positive, drawn)
        place = np.full(len(self.gallery), -1)
        place[kept] = np.arange(len(kept))
        owners = np.repeat(np.arange(len(self.queries)), np.diff(self.right_starts))
        there = place[self.right_places] >= 0
        return replace(
            self,
            gallery=self.gallery.at(kept),
            positive=place[self.positive],
            answers=int((kept < self.answers).sum()),
            right_starts=np.searchsorted(owners[there], np.arange(len(self.queries) + 1)),
            right_places=place[self.right_places[there]],
            siblings=self.siblings.renumbered(place),
            digest=hashlib.sha256(f"{self.digest} {count} {seed}".encode()).hexdigest(),
        )

    def only(self, chosen: np.ndarray) -> Questions:
        """Return some of the queries, [q] int64 increasing, with the rows that ask them, to the same candidates."""
        place = np.full(len(self.queries), -1)
        place[chosen] = np.arange(len(chosen))
        owners = place[np.repeat(np.arange(len(self.queries)), np.diff(self.right_starts))]
        rows, there = place[self.query] >= 0, owners >= 0
        return replace(
            self,
            queries=self.queries.at(chosen),
            rows=self.rows[rows],
            query=place[self.query[rows]],
            positive=self.positive[rows],
            right_starts=np.searchsorted(owners[there], np.arange(len(chosen) + 1)),
            right_places=self.right_places[there],
            siblings=self.siblings.only(chosen),
            digest=hashlib.sha256(self.digest.encode() + chosen.tobytes()).hexdigest(),
        )

    def right(self, part: slice) -> list[np.ndarray]:
        """Return for each query of a part the gallery places that cannot be wrong, [p] int64 each."""
        bounds = self.right_starts[part.start : part.stop + 1]
        return np.split(self.right_places[bounds[0] : bounds[-1]], bounds[1:-1] - bounds[0])


class Scan:
    """One pass over rows, which notes 8 bytes of each input: the number that equal inputs share.

    An input counts by its words, by what its pictures hold and by its task, whichever side it stands on; by `content`,
    without the task, where it is asked whether it is the right answer: what a query asks with is no wrong answer to it.

    Args:
        rows: gives each row when it is asked for; one that raises DataError is left out.
        roles: what asks, what is found, and what else can be a negative, which a row may lack.
        contents: knows pictures by what they hold.
        hidden: no bar is shown.

    Raises DataError for a row without one of the first two roles, and where no row can be made.
    """

    def __init__(
        self, rows: Sequence[TrainingRow], roles: Sequence[str], contents: PictureContents, hidden: bool = False
    ):
        self.rows, self.roles, self.contents = rows, list(roles), contents
        self.numbers = array("q")
        self.unmade = 0
        self.reasons: list[str] = []
        # of each role, for every row that was made: with the task, and by content alone; 0 where the row has none
        self.asked = [array("q") for _ in roles]
        self.content = [array("q") for _ in roles]
        self.shown = array("q")  # of every row that was made, what its query's pictures hold; 0 where it has none
        self.further = array("q"), array("q")  # the row's place among those made, a further right answer by content
        self.worded = array("q"), array("q")  # the same, and its question in other words, with the task
        self._read(hidden)
        if not len(self.numbers):
            raise DataError(f"none of the rows can be made: {'; '.join(self.reasons) or 'there are none'}")

    def _read(self, hidden: bool) -> None:
        quiet = True if hidden else None  # None: no bar where there is no terminal
        for number in tqdm(range(len(self.rows)), desc="comparing", unit="row", leave=False, disable=quiet):
            try:
                row = self.rows[number]
            except DataError as error:
                self.unmade += 1
                self.reasons += [str(error)] * (len(self.reasons) < SHOWN_ROWS)
                continue
            self._note(number, row)

    def _note(self, number: int, row: TrainingRow) -> None:
        for place, role in enumerate(self.roles):
            item = row.roles.get(role)
            if item is None and place < 2:
                raise DataError(f"row '{row.id}' has no {role}; rows like it offer {', '.join(row.roles)}")
            self.content[place].append(0 if item is None else self._content(item))
            self.asked[place].append(0 if item is None else self._asked(item))
        self.shown.append(self._shown(row.roles[self.roles[0]]))
        for values, items, counted in (
            (self.further, row.also_right, self._content),
            (self.worded, row.also_asked, self._asked),
        ):
            for item in items:
                values[0].append(len(self.numbers))
                values[1].append(counted(item))
        self.numbers.append(number)

    def _content(self, item: Item) -> int:
        pictures = tuple(map(self.contents.number, item.images))
        return number_of(repr(item_key(item, pictures, asked=item.role))) or 1  # 0 is none

    def _shown(self, item: Item) -> int:
        pictures = tuple(map(self.contents.number, item.images))
        return number_of(repr(pictures)) or 1 if pictures else 0

    def _asked(self, item: Item) -> int:
        content = self._content(item)
        return content if item.task is None else number_of(f"{content} {item.task}")

    def questions(self, asking: np.ndarray | None = None) -> Questions:
        """Return what was noted, with the queries of the rows `asking` [A] int64 alone, by default of all.

        The other rows' positives are candidates all the same, and right where they ask the same. What is right for a
        query: the positives and further right answers of all rows that ask it, in whatever words, and itself.
        """
        numbers, shown = np.array(self.numbers, np.int64), np.array(self.shown, np.int64)
        asked, content = (np.array(part, np.int64).reshape(len(self.roles), -1) for part in (self.asked, self.content))
        asks = np.arange(len(numbers)) if asking is None else np.flatnonzero(np.isin(numbers, asking))
        first, query = _distinct(asked[0, asks])
        queries = ItemsOfRows(self.rows, numbers[asks[first]], np.zeros(len(first), np.int8), self.roles)
        # the positives of all rows come first, and then, role by role, what else can be found
        there = np.flatnonzero(content[1:].ravel())
        keys = asked[1:].ravel()[there]
        found, place = _distinct(keys)
        at = there[found]
        gallery = ItemsOfRows(
            self.rows, numbers[at % len(numbers)], (1 + at // len(numbers)).astype(np.int8), self.roles
        )
        positive = place[: len(numbers)]
        right = self._right(asked[0], asked[0, asks[first]], content[0], content[1:].ravel()[at], positive)
        digest = hashlib.sha256(asked[0, asks[first]].tobytes() + b"|" + keys[found].tobytes()).hexdigest()
        return Questions(
            queries=queries,
            gallery=gallery,
            rows=numbers[asks],
            query=query,
            positive=positive[asks],
            answers=int(positive.max()) + 1,
            right_starts=np.searchsorted(right[0], np.arange(len(first) + 1)),
            right_places=right[1],
            siblings=Siblings.of(shown, positive, shown[asks[first]]),
            digest=digest,
            unmade=Unmade(self.unmade, tuple(self.reasons)),
        )

    def _right(
        self, asked: np.ndarray, queries: np.ndarray, asks: np.ndarray, gallery: np.ndarray, positive: np.ndarray
    ) -> np.ndarray:
        """Return [2, P] int64, sorted: each query, and the gallery places of what is right for it.

        Args:
            asked, queries: [R] and [Q] each row's query and each query, with their tasks.
            asks, gallery: [R] and [N] what each row's query and each gallery place are by content.
            positive: [R] each row's gallery place.
        """
        rows = np.arange(len(asked))
        further, worded = (np.array(part, np.int64).reshape(2, -1) for part in (self.further, self.worded))
        # who asks what a row asks: its query, and the same in other words, which another row may use
        asking = np.concatenate([rows, worded[0]]), np.concatenate([asked, worded[1]])
        right = np.concatenate([rows, further[0]]), np.concatenate([gallery[positive], further[1]])
        which, row = _joined(*asking, *right)
        wanted, owner = np.concatenate([row, asks]), np.concatenate([which, asked])
        owner = _places(owner, queries)
        wanted, owner = wanted[owner >= 0], owner[owner >= 0]
        which, place = _joined(wanted, owner, gallery, np.arange(len(gallery)))
        keys = np.unique(which * len(gallery) + place)
        return np.stack(np.divmod(keys, len(gallery)))


def _joined(left: np.ndarray, named: np.ndarray, right: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `named` [P] and `found` [P] of every pair whose `left` [n] and `right` [m] are equal."""
    order = np.argsort(right, kind="stable")
    low, high = (np.searchsorted(right[order], left, side=side) for side in ("left", "right"))
    which = np.repeat(np.arange(len(left)), high - low)
    within = np.arange(len(which)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
    return named[which], found[order[low[which] + within]]


def _places(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return where each value stands among distinct keys, -1 where it does not: [n] and [k] int64 -> [n] int64."""
    order = np.argsort(keys)
    at = np.minimum(np.searchsorted(keys[order], values), len(keys) - 1)
    return np.where(keys[order][at] == values, order[at], -1)


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each distinct key appears first, in that order, [D] int64, and each key's place there, [n] int64."""
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[place.reshape(-1)]
