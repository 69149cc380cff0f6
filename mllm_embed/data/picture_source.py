"""Pictures of a folder or a pattern, each with an id: what is a picture there, and what is passed over."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import DataError, reason
from ..files import read_json
from ..inputs.picture_files import is_picture
from ..text import half_character, printable
from ..types import Document, Item
from .folder import BENCHMARK, open_benchmark
from .kept import Values, record_values
from .tables import TABLES, kind_of
from .tables.fingerprint import OpenedFiles

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif")
"""How the names of pictures end; files of other names are looked into."""
_SHOWN = 8


class PictureSource:
    """Picture files by their ids, of a folder or a pattern.

    Attributes:
        path: the folder or pattern that was given.
        files: the pictures.
        ids: one a file; for a name that is no Unicode one that can be written.
        faults: as `Source.faults`.
        notes: as `Source.notes`.
    """

    def __init__(
        self,
        path: Path,
        gallery: Mapping[str, Path],
        texts: Mapping[str, str] | None = None,
        notes: Iterable[str] = (),
        entries: Path | None = None,
    ):
        """Take the files by their ids, and the texts that belong to some of them.

        `entries` is the benchmark.json whose gallery they are, where there is one.
        """
        self.path, self.ids, self.files = path, [printable(name) for name in gallery], list(gallery.values())
        self._texts, self.notes, self._entries = dict(texts or {}), list(notes), entries
        self._opened = OpenedFiles([] if entries is None else [entries])
        bad = (row for row, name in enumerate(gallery) if half_character(name))
        self.faults = {row: "its name is no Unicode; rename the file in UTF-8" for row in bad}

    def read(self, row: int) -> tuple[Item, str | None]:
        """Return a picture, with its text where it has one, and its absolute path; it is not opened."""
        if row in self.faults:
            raise DataError(f"{self.where(row)}: {self.faults[row]}")
        return Document(self.files[row], self._texts.get(self.ids[row])), os.path.abspath(self.files[row])

    @property
    def avoiding(self) -> None:
        """As `Source.avoiding`: a picture avoids nothing."""

    def kept(self, names: Sequence[str]) -> Values | None:
        """As `Source.kept`: the keys of a benchmark's gallery."""
        found = None if self._entries is None else record_values(self._gallery(), names)
        self.check_kept()
        return found

    def check_kept(self) -> None:
        """As `Source.check_kept`."""
        if self._entries is not None:
            self._opened.check(self._entries)

    def keepable(self) -> list[str]:
        """As `Source.keepable`, of all entries."""
        return list(dict.fromkeys(chain.from_iterable(self._gallery())))

    def _gallery(self) -> list[dict[str, Any]]:
        """Return the entries of the gallery, one a file; none of a folder of pictures alone."""
        if self._entries is None:
            return []
        gallery = read_json(self._entries, "restore it, and give the same command again")["gallery"]
        if [printable(str(entry["id"])) for entry in gallery] != self.ids:
            raise DataError(f"{self._entries} was changed while it was being read: give the same command again")
        return list(gallery)

    def check_unchanged(self, rows: Iterable[int]) -> None:
        """As `Source.check_unchanged`: a picture's file has its row to itself, whatever it holds."""

    def where(self, row: int) -> str:
        """Return the path of the file."""
        return printable(str(self.files[row]))

    def files_fingerprint(self) -> str:
        """Return the sha256 over ids, sizes and texts of the files."""
        # sizes rather than contents, since a source may hold terabytes
        digest = hashlib.sha256()
        for name, file in zip(self.ids, self.files, strict=True):
            digest.update(f"{name} {file.stat().st_size if file.is_file() else 0}\n".encode())
            digest.update(self._texts.get(name, "").encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Raise DataError for the first picture that is known not to be readable."""
        for row in self.faults:
            self.read(row)


@dataclass(frozen=True)
class FolderFiles:
    """What a folder and those below it hold, in order.

    Attributes:
        pictures: files that are pictures by name or content.
        others: all other files.
        links: folders behind links, which are not gone into.
    """

    pictures: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path) -> FolderFiles:
        """Walk through a folder. Raises DataError for one that cannot be listed."""
        found = cls()
        for folder, folders, names in os.walk(root, onerror=_refuse):
            here = Path(folder)
            found.links.extend(here / name for name in folders if (here / name).is_symlink())
            for name in names:
                (found.pictures if is_named_picture(here / name) else found.others).append(here / name)
        for paths in (found.pictures, found.others, found.links):
            paths.sort()
        return found

    def passed_over(self, root: Path, used: Iterable[Path] = ()) -> list[str]:
        """Return in a sentence which other files there are than the pictures, or than those `used`; none for none."""
        left = sorted({*self.others} - {*used})
        kinds = Counter(kind_of(path) or "without an ending" for path in left)
        counts = [f"{count:,} {kind}" for kind, count in kinds.most_common(_SHOWN)]
        if len(kinds) > _SHOWN:
            counts.append(f"{len(kinds) - _SHOWN} other kinds")
        parts = [f"{len(left):,} files ({', '.join(map(printable, counts))})"] if left else []
        if self.links:
            parts.append(f"{len(self.links):,} linked folders (the first {printable(self.links[0].name)})")
        return [f"{printable(str(root))}: passed over {' and '.join(parts)}"] if parts else []


def is_named_picture(path: Path) -> bool:
    """Return whether a file is a picture by its name, or, where that is not one of rows, by its content."""
    kind = kind_of(path)
    return kind in SUFFIXES or (kind not in TABLES and is_picture(path))


def picture_folder(path: str | os.PathLike[str]) -> PictureSource:
    """Return the pictures of a folder's benchmark.json, or else of the folder and below, by name.

    Raises:
        DataError: the folder is missing, faulty, or holds no picture.
    """
    root = Path(path)
    check_folder(root)
    if (root / BENCHMARK).is_file():
        gallery = open_benchmark(root).gallery
        texts = {item.id: item.text for item in gallery if item.text is not None}
        return PictureSource(root, {item.id: item.image for item in gallery}, texts, entries=root / BENCHMARK)
    return pictures_in(root, FolderFiles.of(root))


def pictures_in(root: Path, files: FolderFiles) -> PictureSource:
    """Return the pictures among the files of a folder, by name. Raises DataError where there is none."""
    if not files.pictures:
        there = "; ".join(files.passed_over(root))
        raise DataError(
            f"empty folder {root}: no file in it is a picture by its name ({', '.join(SUFFIXES)}) or content"
            + (f"; {there.removeprefix(f'{root}: ')}" if there else "")
        )
    gallery = {file.relative_to(root).as_posix(): file for file in files.pictures}
    return PictureSource(root, gallery, notes=files.passed_over(root))


def check_folder(root: Path) -> None:
    """Raise DataError for a path that leads to no folder."""
    if not root.is_dir():
        raise DataError(f"{root} is {'not a folder' if root.exists() else 'missing'}: give a folder of pictures")


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be listed: {reason(error)}; mend its permissions, or leave it out")
