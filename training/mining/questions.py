"""What rows ask and answer, each distinct item once, so that nothing is embedded or ranked twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from tqdm import tqdm

from mllm_embed.errors import DataError, ImageError
from mllm_embed.inputs.images import content_key
from mllm_embed.types import ImageLike, Item, item_key

from ..data import TrainingRow


@dataclass(frozen=True)
class Questions:
    """The queries and answers of rows, each distinct item once. A picture that stands under two names is one.

    Args:
        queries: Q items; rows that ask the same share one.
        gallery: N items; the first `answers` of them are the positive of some row.
        query, positive: [R] int64, the place of each row's own in these lists.
        answers: how many gallery items are positives.
        itself: [Q] int64, where a query stands in the gallery, -1 where it does not.
    """

    queries: list[Item]
    gallery: list[Item]
    query: np.ndarray
    positive: np.ndarray
    answers: int
    itself: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[TrainingRow], query: str, positive: str, also: Sequence[str] = ()) -> Questions:
        """Read the roles `query` and `positive` of all rows; what plays a role of `also` can be a negative too.

        Raises DataError for a row without one of these roles.
        """
        _check_roles(rows, (query, positive, *also))
        content = _by_content()
        for row in tqdm(rows, desc="comparing", unit="row", mininterval=1, leave=False):
            for role in (query, positive, *also):
                content(row.roles[role])  # reads the pictures, under the bar; from here on they are known

        def asked_alike(item: Item) -> Hashable:
            return content(item), item.task

        queries, asked = _distinct((row.roles[query] for row in rows), asked_alike)
        positives, answered = _distinct((row.roles[positive] for row in rows), asked_alike)
        further = (row.roles[role] for role in also for row in rows)
        gallery, _ = _distinct([*positives, *further], asked_alike)
        place = {content(item): number for number, item in enumerate(gallery)}
        itself = np.array([place.get(content(item), -1) for item in queries], np.int64)
        return cls(queries, gallery, asked, answered, len(positives), itself)

    def right(self) -> list[set[int]]:
        """Return for each query the gallery places that cannot be wrong: the positives of all its rows, and itself."""
        found: list[set[int]] = [{place} if place >= 0 else set() for place in self.itself.tolist()]
        for query, positive in zip(self.query.tolist(), self.positive.tolist(), strict=True):
            found[query].add(positive)
        return found


def _check_roles(rows: Sequence[TrainingRow], roles: Sequence[str]) -> None:
    for row in rows:
        for role in roles:
            if role not in row.roles:
                raise DataError(f"row '{row.id}' has no {role}; rows like it offer {', '.join(row.roles)}")


def _by_content() -> Callable[[Item], Hashable]:
    """Return what gives a key that items of equal words and equal pictures share, whichever side they stand on: what a
    query asks with is no wrong answer to it.

    Files count by their bytes, and are read once. One that cannot be read counts by its name, and is reported
    when it is embedded.
    """

    @cache
    def of_file(name: str) -> str:
        try:
            return content_key(name)
        except ImageError:
            return name

    def of_picture(image: ImageLike) -> Hashable:
        if isinstance(image, (str, os.PathLike)):
            return of_file(os.fspath(image))
        return image if isinstance(image, Hashable) else id(image)

    return lambda item: item_key(item, tuple(map(of_picture, item.images)), asked=item.role)


def _distinct(items: Iterable[Item], key: Callable[[Item], Hashable]) -> tuple[list[Item], np.ndarray]:
    """Return the distinct items in order of appearance, and the place of each given one, [len(items)] int64."""
    place: dict[Hashable, int] = {}
    found: list[Item] = []
    places: list[int] = []
    for item in items:
        at = place.setdefault(key(item), len(found))
        if at == len(found):
            found.append(item)
        places.append(at)
    return found, np.array(places, np.int64)
