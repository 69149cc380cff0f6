"""Captions of pictures, from any sources of pairs, and how the pictures are named beside the triplets made of them.

A picture that is a file stays where it is. One that lies as bytes in a table gets a file of its own in the folder of
the triplets, named by its content, since no other row can point to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from mllm_embed.errors import DataError, ImageError
from mllm_embed.files import write_file
from mllm_embed.inputs.picture_files import check_picture_file

from ..data import TrainingRow
from ..data.rows import MixedRows
from .picture_names import common_start, file_of, name_from

_BAR_ROWS, _BAR_PICTURES = 50_000, 1_000  # from which on it takes long enough to show it


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and its picture.

    Args:
        id: the row's name, which no other has.
        text: the caption.
        picture: the path of its file, which for bytes is the one that `Captions.write_pictures` gives them.
        row: the number of the row.
        embedded: whether its picture lies as bytes in a table.
    """

    id: str
    text: str
    picture: str
    row: int
    embedded: bool = False


@dataclass
class Captions:
    """The captions of rows, in their order.

    Args:
        rows: pairs of a picture and a caption.
        output: the folder that the triplets go to.
        listed: a caption for each row that can be read.
        unreadable: by the place of a row why it cannot be.
        start: the folder that the names of the pictures start from; `output`, where that is one.
    """

    rows: MixedRows
    output: Path
    listed: list[Caption] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    start: str = ""

    @classmethod
    def read(cls, rows: MixedRows, output: Path, limit: int | None = None) -> Captions:
        """Return the captions of the first `limit` rows, by default of all.

        A row whose id came before gets it with ~2 (~3 ...) behind. Raises DataError where no row can be read.
        """
        captions = cls(rows, output)
        count = min(len(rows), limit or len(rows))
        given: dict[str, int] = {}
        for number in tqdm(range(count), desc="captions", unit="row", leave=False, disable=count < _BAR_ROWS):
            try:
                row = rows[number]
                text = row.roles["caption"].words or ""
                embedded = _content(row)
                picture = _file(row) if embedded is None else file_of(embedded, output)
            except (DataError, ImageError) as error:
                place = ": ".join(reversed(rows.where(number)))
                captions.unreadable[place] = str(error).removeprefix(f"{place}: ")
                continue
            name = _own_name(row.id, given)
            captions.listed.append(Caption(name, text, picture, number, embedded is not None))
        if not captions.listed:
            place, why = next(iter(captions.unreadable.items()))
            raise DataError(f"none of the {count:,} rows can be read; the first, {place}: {why}")
        roots = [str(output), *(str(root) for part in rows.parts for root in part.roots())]
        captions.start = common_start((caption.picture for caption in captions.listed), roots)
        return captions

    def name(self, caption: Caption) -> str:
        """Return the name of a caption's picture from the folder `start`, as a data folder writes names."""
        return name_from(caption.picture, self.start)

    def write_pictures(self, wanted: Iterable[Caption]) -> int:
        """Write the files of those pictures that had none, and return how many there are; those there already stay."""
        embedded = {caption.picture: caption for caption in wanted if caption.embedded}
        shown = tqdm(embedded, desc="pictures", unit="picture", leave=False, disable=len(embedded) < _BAR_PICTURES)
        for path in shown:
            content = None if os.path.exists(path) else _content(self.rows[embedded[path].row])
            if content is not None:
                write_file(Path(path), content)
        return len(embedded)


def _own_name(name: str, given: dict[str, int]) -> str:
    """Return a name that none of `given` has, and add it to them."""
    own = name
    while own in given:
        given[name] += 1
        own = f"{name}~{given[name]}"
    given[own] = 1
    return own


def _content(row: TrainingRow) -> bytes | None:
    """Return the bytes of a row's picture; None where it is a file."""
    (picture,) = row.roles["image"].images
    return picture if isinstance(picture, bytes) else None


def _file(row: TrainingRow) -> str:
    """Return the path of a row's picture. Raises ImageError where no picture lies there, as its first bytes tell."""
    (picture,) = row.roles["image"].images
    path = os.fspath(picture)  # type: ignore[arg-type]  # a row of files holds paths and bytes alone
    check_picture_file(path)
    return path
