"""How a benchmark's files are found, in the layouts that people really have, and what to say when they are not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.files import read_json
from mllm_embed.types import ImageLike, Query

from ..scoring.suite import Suite

Options = Mapping[str, str]
Places = tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """An entry of the registry: what can be asked for, where its files may lie, and how they become a `Suite`.

    Attributes:
        about: one line for `--help`.
        splits: the first is the default.
        options: option -> its values, the first the default.
        files: (split, options) -> what each annotation file is -> where it may lie, relative to a folder of `folders`.
        build: reads them.
        folders: folders below --data (and --images) in which everything is looked for, "" for itself.
        annotations, pictures: where to get them.
    """

    name: str
    about: str
    splits: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    files: Callable[[str, Options], Mapping[str, Places]]
    build: Callable[[BenchmarkFiles, str, Options], Suite]
    folders: Places = ("",)
    annotations: str = ""
    pictures: str = ""


@dataclass(frozen=True)
class Count:
    """How many of some files are there, and the first that is not."""

    what: str
    found: int
    of: int
    missing: str | None


@dataclass
class BenchmarkFiles:
    """The files of a benchmark on a disk.

    Attributes:
        data, images: the folders given by the user.
        look: whether pictures are looked for; without, any path will do, since nobody opens it.
        strict: whether a missing picture is an error.
        counts: what was looked for so far.
    """

    benchmark: Benchmark
    data: Path
    images: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    look: bool = True
    strict: bool = True
    counts: list[Count] = field(default_factory=list)
    _listings: dict[Path, set[str]] = field(default_factory=dict, repr=False)

    def json(self, what: str) -> Any:
        """The content of an annotation file.

        Raises:
            DataError: it cannot be read, or is no JSON.
        """
        return read_json(self.files[what], f"fetch it again from {self.benchmark.annotations}")

    def rows(self, what: str, under: str = "", **types: type) -> list[dict[str, Any]]:
        """The objects that a file lists (`under` a key), each with the keys of `types` and values of those types."""
        rows, path = self.json(what), self.files[what]
        if under:
            rows = rows.get(under) if isinstance(rows, dict) else None
        if not isinstance(rows, list) or not rows:
            place = f'{path}, under "{under}",' if under else path
            raise DataError(f"{place} must hold a list of objects; fetch it again from {self.benchmark.annotations}")
        for number, row in enumerate(rows):
            for key, kind in types.items():
                if not isinstance(row, dict) or not isinstance(row.get(key), kind):
                    raise DataError(
                        f'{path} row {number}: "{key}" is missing or no {kind.__name__}; '
                        f"fetch it again from {self.benchmark.annotations}"
                    )
        return rows

    def pictures(self, what: str, patterns: Places, names: Iterable[Mapping[str, str]]) -> list[Path]:
        """Paths of pictures: each of `names` fills the patterns, of which the first that leads to a file is taken.

        Raises:
            DataError: pictures are missing (unless not `strict`).
        """
        places = [Path(folder) / pattern for folder in self.benchmark.folders for pattern in patterns]
        found, lost = [], []
        for values in names:
            at = self._first(places, values) if self.look else 0
            if at is None:
                lost.append(patterns[0].format_map(values))
            elif at:
                places.insert(0, places.pop(at))  # the others will lie there too
            found.append(self.images / str(places[0]).format_map(values))
        if self.look:
            self.counts.append(Count(f"{what} pictures", len(found) - len(lost), len(found), lost[0] if lost else None))
        if lost and self.strict:
            raise DataError(
                f"{len(lost):,} of {len(found):,} {what} pictures are missing under {self.images}, the first is "
                f"{lost[0]}; `python -m eval check {self.benchmark.name} --data {self.data}` tells what is wanted where"
            )
        return found

    def _first(self, places: Sequence[Path], values: Mapping[str, str]) -> int | None:
        for at, place in enumerate(places):
            path = self.images / str(place).format_map(values)
            if path.parent not in self._listings:
                self._listings[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
            if path.name in self._listings[path.parent]:
                return at
        return None


def open_source(
    benchmark: Benchmark, data: Path, images: Path | None, split: str, options: Options
) -> tuple[BenchmarkFiles, list[Count]]:
    """The benchmark's annotation files under `data`, and what was found of each.

    Raises:
        DataError: `data` is no folder.
    """
    for root in (data, images or data):
        if not root.is_dir():
            raise DataError(f"{root} is {'not a folder' if root.exists() else 'missing'}: give the benchmark's folder")
    files, counts = {}, []
    for what, places in benchmark.files(split, options).items():
        tried = [data / folder / place for place in places for folder in benchmark.folders]
        path = next((path for path in tried if path.is_file()), None)
        counts.append(Count(what, int(path is not None), 1, None if path else places[0]))
        if path:
            files[what] = path
    return BenchmarkFiles(benchmark, data, images or data, files), counts


def chosen(benchmark: Benchmark, split: str | None, options: Options) -> tuple[str, dict[str, str]]:
    """Split and options with the defaults filled in.

    Raises:
        ConfigError: an unknown split, option or value, with those that exist.
    """
    split = split or benchmark.splits[0]
    if split not in benchmark.splits:
        known = ", ".join(filter(None, benchmark.splits)) or "none"
        raise ConfigError(f"{benchmark.name} has no split '{split}'; it has {known}")
    for key, value in options.items():
        if key not in benchmark.options:
            known = ", ".join(benchmark.options) or "none"
            raise ConfigError(f"{benchmark.name} has no option '{key}'; it has {known}")
        if value not in benchmark.options[key]:
            values = ", ".join(benchmark.options[key])
            raise ConfigError(f"option {key} of {benchmark.name} is one of {values}, not '{value}'")
    return split, {key: options.get(key, values[0]) for key, values in benchmark.options.items()}


def ask(image: ImageLike, text: str) -> Query:
    """The composed query; the picture alone where the annotators left the text empty (CIRR test1 has such a row)."""
    return Query(image=image, instruction=text.strip() or None)


def unique(ids: Sequence[str], where: str) -> list[str]:
    """The ids as a list. Raises DataError for an id that stands twice."""
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f'{where}: the id "{twice}" stands twice')
    return list(ids)


def positions_of(place: Mapping[str, int], ids: Iterable[str], where: str) -> tuple[int, ...]:
    """Gallery positions of ids. Raises DataError for an id that is not in the gallery."""
    ids = list(ids)
    for name in ids:
        if name not in place:
            raise DataError(f'{where}: "{name}" is not in the gallery: the annotation files are of different versions')
    return tuple(place[name] for name in ids)
