"""What of a listing a store holds already: a row is known by its id, and by what it holds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ..data.digest import item_digest
from ..data.sources import Listing
from ..errors import DataError, ImageError
from ..types import Document
from .vector_store import VectorStore


class Contents:
    """What the rows of a listing hold, each looked at once while a call lasts."""

    def __init__(self, listing: Listing):
        """Look at the rows of a listing, when it is asked for."""
        self.listing = listing
        sources = ([os.path.abspath(source.path)] * len(source.ids) for source in listing.sources)
        self.origins = list(chain.from_iterable(sources))
        self.row_of = {name: row for row, name in enumerate(listing.ids)}
        self._looked: dict[int, tuple[str | None, str | None]] = {}

    def digest(self, row: int) -> str | None:
        """Return the sha256 of what a row holds, None where it cannot be read."""
        return self._look(row)[0]

    def place(self, row: int) -> str | None:
        """Return where the picture of a row lies, None where there is none or it cannot be read."""
        return self._look(row)[1]

    def _look(self, row: int) -> tuple[str | None, str | None]:
        if row not in self._looked:
            try:
                item, place = self.listing.read(row)
                self._looked[row] = item_digest(item), place
            except (ImageError, DataError):
                self._looked[row] = None, None
        return self._looked[row]

    def origin_of(self, name: str) -> str | None:
        """Return the source of an id, None where the listing has not got it."""
        return self.origins[self.row_of[name]] if name in self.row_of else None

    def note(self, row: int, digest: str, place: str | None) -> None:
        """Remember what a row held, and where its picture lay, when it was read."""
        self._looked[row] = digest, place


@dataclass
class Survey:
    """Rows of a listing against a store.

    Args:
        new: without a vector.
        changed: with the vector of something else.
        unchanged: with a vector of what they hold.
        unknown: with a vector of which it is not known what it was made of: an earlier version made it, or
            `VectorStore.add`.
    """

    new: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


def survey(store: VectorStore, contents: Contents, rows: Iterable[int]) -> Survey:
    """Return how rows stand to what a store holds.

    Raises:
        DataError: a row has the id of another source's, and holds something else.
    """
    found = Survey()
    ids, there = contents.listing.ids, store.living
    for row in rows:
        if ids[row] not in there:
            found.new.append(row)
            continue
        at = store.position(ids[row])
        if store.digests[at] is None:
            _check_other_place(store, at, contents, row)
            found.unknown.append(row)
        elif store.digests[at] == contents.digest(row):
            found.unchanged.append(row)
        else:
            _check_origin(store, at, contents, row)
            found.changed.append(row)
    return found


def gone(store: VectorStore, contents: Contents) -> int:
    """Return how many rows the store has of the sources that are listed, which those have not got any more."""
    listed = set(contents.origins)
    return sum(name not in contents.row_of and store.origins[store.position(name)] in listed for name in store.living)


def moved(store: VectorStore, contents: Contents, rows: Iterable[int]) -> int:
    """Return how many of these rows have their pictures elsewhere than the store says: other rows came first, say."""
    there = ((contents.place(row), contents.listing.ids[row]) for row in rows)
    return sum(name in store.living and place != store.sources[store.position(name)] for place, name in there)


def _check_origin(store: VectorStore, at: int, contents: Contents, row: int) -> None:
    """Raise DataError where a row that holds something else than the store's row `at` comes from another source.

    What cannot be read holds nothing, and is told as that.
    """
    if store.origins[at] == contents.origins[row] or contents.digest(row) is None:
        return
    place = contents.place(row)
    if place is None or place != store.sources[at]:
        raise _conflict(store, at, contents, row)


def _check_other_place(store: VectorStore, at: int, contents: Contents, row: int) -> None:
    """Raise DataError where the store's row `at`, of which nothing is known but its place, is seen to be another.

    That is where both are pictures alone, and what is at that place now is not what the row holds.
    """
    place = store.sources[at]
    if place is None or contents.place(row) in (place, None) or not Path(place).is_file():
        return
    item = contents.listing.read(row)[0]
    if isinstance(item, Document) and item.text is None and _file_digest(place) not in (None, contents.digest(row)):
        raise _conflict(store, at, contents, row)


def _file_digest(place: str) -> str | None:
    try:
        return item_digest(Document(Path(place)))
    except ImageError:
        return None


def _conflict(store: VectorStore, at: int, contents: Contents, row: int) -> DataError:
    name, now = contents.listing.ids[row], contents.listing.where(row)
    before = store.sources[at] or store.origins[at]
    return DataError(
        f'the id "{name}" is in {store.folder} already, of {before}, and {now} holds something else: give one of them '
        f"another id or another store, or take the first out with `mllm-embed remove`"
    )
