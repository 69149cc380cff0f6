"""What queries avoid as inputs of their own: each different text is encoded once, and taken from its queries after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..types import Item, Query
from ..vectors.avoiding import avoiding


@dataclass(frozen=True)
class Avoided:
    """Which inputs of a list avoid something, and where that stands behind the list.

    Args:
        listed: how many inputs the list has.
        words_of: by the place of a query in the list that of the words which it avoids; these come after the list.
    """

    listed: int
    words_of: Mapping[int, int]

    def vectors(self, found: np.ndarray) -> np.ndarray:
        """Return the vectors [listed, D] float32 of the list, turned away from what each avoids.

        Args:
            found: [M, D] float32 of unit length, of the list and of the words behind it; 0 for what has no vector.
        """
        if not self.words_of:
            return found
        places = list(self.words_of)
        own, words = found[: self.listed].copy(), found[list(self.words_of.values())]
        there = own[places].any(axis=1) & words.any(axis=1)
        own[places] = np.where(there[:, None], avoiding(own[places], words), np.float32(0))
        return own

    def failures(self, found: Mapping[int, str]) -> dict[int, str]:
        """Return why inputs of the list cannot be embedded, by their places; `found` tells it of the words too."""
        own = {place: reason for place, reason in found.items() if place < self.listed}
        of_words = {
            query: f"what it avoids: {found[place]}" for query, place in self.words_of.items() if place in found
        }
        return of_words | own

    def tokens(self, found: Sequence[int]) -> list[int]:
        """Return the tokens of each input of the list, those of what it avoids among them."""
        own = list(found[: self.listed])
        for query, place in self.words_of.items():
            own[query] += found[place]
        return own


def apart(items: Sequence[Item]) -> tuple[list[Item], Avoided]:
    """Return a list of inputs without what they avoid, and behind it each different text to avoid, as it is asked on
    the query's side with the query's task; and which belongs to which."""
    plain: list[Item] = list(items)
    places: dict[Query, int] = {}
    words_of: dict[int, int] = {}
    for place, item in enumerate(items):
        words = words_to_avoid(item)
        if words is not None:
            plain[place] = without_avoid(item)
            words_of[place] = places.setdefault(words, len(items) + len(places))
    return [*plain, *places], Avoided(len(items), words_of)


def words_to_avoid(item: Item) -> Query | None:
    """Return what an input avoids as a text that asks; None where it avoids nothing."""
    return None if item.avoid is None else Query(text=item.avoid, task=item.task)


def without_avoid(item: Item) -> Item:
    """Return an input as it is encoded before anything is taken from it."""
    return replace(item, avoid=None) if isinstance(item, Query) and item.avoid is not None else item
