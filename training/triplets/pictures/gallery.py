"""The pictures that pairs are made of, by id: of a store, of a folder, or of any source that training reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_embed.data.kept import Values
from mllm_embed.data.sources import Listing, picture_at
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.inputs.images import content_key
from mllm_embed.store.gallery import StoreGallery
from mllm_embed.types import Document, ImageLike, Item

from ...data import TrainingRow
from ...data.rows import MixedRows
from .rules import FOLDER

if TYPE_CHECKING:
    from mllm_embed import MLLMEmbedder

# The roles whose items are pictures alone, and those that say what they show.
_CAPTIONED = {"image": "caption", "query_image": "source_text", "target_image": "target_text"}


class Pictures:
    """Pictures by id, read when they are needed.

    Attributes:
        captions: what some of them show.
        unmade: why rows that they come from could not be made, and gave none.
    """

    def __init__(self, read: Callable[[str], ImageLike], captions: Mapping[str, str] | None = None):
        """Take what gives the picture of an id: the path of a file, or bytes that lie inside another."""
        self._read, self.captions = read, dict(captions or {})
        self.unmade: list[str] = []
        self._digests: dict[str, str] = {}

    def __getitem__(self, name: str) -> ImageLike:
        """Return a picture. Raises DataError where it is not there any more."""
        return self._read(name)

    def digest(self, name: str) -> str:
        """Return the sha256 of a picture's content. Raises ImageError for one that cannot be read."""
        if name not in self._digests:
            self._digests[name] = content_key(self[name])
        return self._digests[name]

    def folder(self, name: str) -> str:
        """Return the folder that a picture lies in; that of the file around it, for bytes."""
        place = self[name]
        return os.path.dirname(os.fspath(place)) if isinstance(place, str | os.PathLike) else ""

    @classmethod
    def of_store(cls, gallery: StoreGallery, caption: str | None = None) -> Pictures:
        """Return the pictures of a store, whose captions are in the kept column `caption`.

        Raises DataError where a row does not say where its picture lies, or there is no such column.
        """
        store = gallery.store
        places = {name: place for name, place in zip(store.ids, store.sources, strict=True) if name in store.living}
        unknown = next((name for name, place in places.items() if place is None), None)
        if unknown is not None:
            raise DataError(
                f"{store.folder} does not say where the picture of '{unknown}' lies: make the store of pictures with "
                "`mllm-embed encode`"
            )
        captions = {} if caption is None else column_of(gallery, caption)
        return cls(lambda name: picture_at(str(places[name])), captions)

    @classmethod
    def of_listing(cls, listing: Listing) -> Pictures:
        """Return the pictures of what `mllm-embed encode` reads. Raises DataError for a row that is no picture."""
        row_of = {name: row for row, name in enumerate(listing.ids)}

        def read(name: str) -> ImageLike:
            images = listing.read(row_of[name])[0].images
            if not images:
                raise DataError(f"{listing.where(row_of[name])} has no picture: give pictures alone")
            return images[0]

        return cls(read)


class Listed:
    """Items by id as a source that `mllm_embed.store.extract` embeds.

    Args:
        path: where they come from, for a record.
        items: id -> what to embed, made when it is needed.
    """

    faults: Mapping[int, str] = {}
    avoiding: int | None = None
    notes: Sequence[str] = ()

    def __init__(self, path: Path, items: Mapping[str, Callable[[], Item]]):
        self.path, self.ids, self._items = path, list(items), list(items.values())

    def read(self, row: int) -> tuple[Item, str | None]:
        """As `Source.read`."""
        item = self._items[row]()
        place = item.images[0] if item.images else None
        return item, os.path.abspath(place) if isinstance(place, str | os.PathLike) else None

    def kept(self, names: Sequence[str]) -> Values | None:
        """As `Source.kept`: none."""
        return None

    def check_kept(self) -> None:
        """As `Source.check_kept`: nothing is kept."""

    def keepable(self) -> Sequence[str]:
        """As `Source.keepable`: nothing is."""
        return []

    def check_unchanged(self, rows: Iterable[int]) -> None:
        """As `Source.check_unchanged`: what an item holds is compared by its content."""

    def where(self, row: int) -> str:
        """As `Source.where`."""
        return self.ids[row]

    def files_fingerprint(self) -> str:
        """As `Source.files_fingerprint`."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()


def of_rows(rows: MixedRows, path: Path) -> tuple[Listing, Pictures]:
    """Return each picture of rows once, as something to embed and by id; what the rows say that they show is kept.

    The id of a file is its path; of bytes in a table, the row's place and role.
    """
    found: dict[str, tuple[int, str, int]] = {}
    captions: dict[str, str] = {}
    unmade: list[str] = []
    for number in range(len(rows)):
        try:
            row = rows[number]
        except DataError as error:
            unmade.append(str(error))
            continue
        for name, role, place, caption in _pictures_of(row, rows.where(number)):
            found.setdefault(name, (number, role, place))
            if caption:
                captions.setdefault(name, caption)
    if not found:
        raise DataError(f"{path} has no row with a picture{f' that can be read: {unmade[0]}' if unmade else ''}")

    def read(name: str) -> ImageLike:
        number, role, place = found[name]
        return rows[number].roles[role].images[place]

    def item(name: str) -> Callable[[], Item]:
        return lambda: Document(image=read(name))

    pictures = Pictures(read, captions)
    pictures.unmade = unmade
    return Listing([Listed(path, {name: item(name) for name in found})]), pictures


def _pictures_of(row: TrainingRow, where: tuple[str, str]) -> Iterator[tuple[str, str, int, str | None]]:
    """Yield id, role, place in the role and caption of each picture of a row, which is from `where`."""
    for role, caption in _CAPTIONED.items():
        if role not in row.roles:
            continue
        images = row.roles[role].images
        words = row.roles[caption].words if caption in row.roles and len(images) == 1 else None
        for place, image in enumerate(images):
            is_file = isinstance(image, str | os.PathLike)
            at = ": ".join([*reversed(where), role, str(place)])
            named = os.fspath(image) if is_file else at  # type: ignore[arg-type]
            yield named, role, place, words


def column_of(gallery: StoreGallery, column: str) -> dict[str, str]:
    """Return id -> value, as text, of a column that a store keeps. Raises ConfigError where it keeps no such column."""
    store = gallery.store
    if column not in store.kept:
        kept = ", ".join(store.kept) or "none"
        raise ConfigError(
            f"{store.folder} keeps no column '{column}' (it keeps {kept}): make the store with `mllm-embed encode "
            f"... --keep {column}`"
        )
    names = [name for name in store.ids if name in store.living]
    values = (row.get(column) for row in gallery.metadata(names))
    return {name: str(value) for name, value in zip(names, values, strict=True) if value is not None}


def groups_of(gallery: StoreGallery, pictures: Pictures, column: str) -> dict[str, str]:
    """Return id -> group: the folder of each picture, or its value in a column that the store keeps."""
    if column != FOLDER:
        return column_of(gallery, column)
    return {name: pictures.folder(name) for name in gallery.store.living}


def embedded_captions(
    embedder: MLLMEmbedder, captions: Mapping[str, str], folder: Path, batch_size: int
) -> StoreGallery:
    """Return a store in `folder` of the captions' vectors, by the pictures' ids. Raises as `encode_sources`."""
    from mllm_embed.store.extract import encode_sources

    def item(text: str) -> Callable[[], Item]:
        return lambda: Document(text=text)

    listing = Listing([Listed(folder, {name: item(text) for name, text in captions.items()})])
    return StoreGallery(made(encode_sources(embedder, listing, folder, batch_size=batch_size), folder))


def made(extracted: Any, folder: Path) -> Any:
    """Return the store of a finished call. Raises DataError where other processes are still at it."""
    if extracted.store is None:
        raise DataError(f"another process is embedding into {folder}: give the same command again when it is done")
    return extracted.store
