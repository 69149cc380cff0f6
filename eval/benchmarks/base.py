"""An entry of the registry, and the files of a benchmark on a disk, in the layouts that people really have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_embed.errors import ConfigError, DataError, reason
from mllm_embed.files import parse_json, read_json, read_text
from mllm_embed.types import Document, ImageLike, Query

from ..scoring.suite import Suite

Options = Mapping[str, str]
Places = tuple[str, ...]
ALL_TASKS = "all"  # first value of the option "task", where a benchmark's tasks may be measured apart


@dataclass(frozen=True)
class Benchmark:
    """An entry of the registry: what can be asked for, where its files may lie, and how they become a `Suite`.

    Attributes:
        about: one line for `--help`, with what is not as in the official protocol.
        sizes: queries and gallery of each split, for `list`.
        rule: how it is scored, and what that equals or where it differs, for `list`.
        splits: the first is the default.
        options: option -> its values, the first the default.
        files: (split, options) -> what each annotation file is -> where it may lie, relative to a folder of `folders`.
        build: reads them: (files, split, options) -> suite.
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
    sizes: str = ""
    rule: str = ""


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
        paths: the annotation files that were found, by what they are.
        look: whether pictures are looked for; without, any path will do, since nobody opens it.
        strict: whether a missing picture is an error.
        lenient: whether it is none after all, and nothing is counted: pictures are only to be shown.
        counts: what was looked for so far.
    """

    benchmark: Benchmark
    data: Path
    images: Path
    paths: Mapping[str, Path] = field(default_factory=dict)
    look: bool = True
    strict: bool = True
    lenient: bool = False
    counts: list[Count] = field(default_factory=list)
    _listings: dict[Path, set[str]] = field(default_factory=dict, repr=False)

    def json(self, what: str) -> Any:
        """Return the content of an annotation file.

        Raises:
            DataError: it cannot be read, or is no JSON.
        """
        return read_json(self.paths[what], self._again)

    def rows(self, what: str, types: Mapping[str, type], under: str = "") -> list[dict[str, Any]]:
        """Return the objects that a file lists (`under` a key), each with values of `types` under the keys of `types`.

        Raises:
            DataError: the file has another content.
        """
        rows, path = self.json(what), self.paths[what]
        if under:
            rows = rows.get(under) if isinstance(rows, dict) else None
        if not isinstance(rows, list) or not rows:
            place = f'{path}, under "{under}",' if under else path
            raise DataError(f"{place} must hold a list of objects; {self._again}")
        return self._checked(rows, path, "row", types)

    def lines(self, what: str) -> list[str]:
        """Return the lines of a text file that are not empty.

        Raises:
            DataError: it cannot be read, is no text, or has no line.
        """
        path = self.paths[what]
        try:
            lines = [line for line in read_text(path).splitlines() if line.strip()]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {reason(error)}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no text in UTF-8; {self._again}") from error
        if not lines:
            raise DataError(f"{path} is empty; {self._again}")
        return lines

    def records(self, what: str, types: Mapping[str, type]) -> list[dict[str, Any]]:
        """Return the objects of a file of JSON lines, each with values of `types` under the keys of `types`.

        Raises:
            DataError: the file has another content.
        """
        path, records = self.paths[what], []
        for number, line in enumerate(self.lines(what)):
            try:
                records.append(parse_json(line))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path} line {number} is not JSON ({error}); {self._again}") from error
        return self._checked(records, path, "line", types)

    def table(self, what: str, types: Mapping[str, type]) -> list[dict[str, Any]]:
        """Return the rows of a parquet file, each with values of `types` under the columns of `types`.

        Raises:
            DataError: the file has another content.
        """
        import pyarrow  # its import takes as long as the rest of a short command
        import pyarrow.parquet

        path = self.paths[what]
        try:
            table = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is no whole parquet file; {self._again}") from error
        if not table.num_rows:
            raise DataError(f"{path} has no rows; {self._again}")
        return self._checked(table.to_pylist(), path, "row", types)

    def _checked(self, rows: list[Any], path: Path, name: str, types: Mapping[str, type]) -> list[dict[str, Any]]:
        for number, row in enumerate(rows):
            wrong = _wrong_key(row, types)
            if wrong is not None:
                raise DataError(
                    f'{path} {name} {number}: "{wrong}" is missing or no {types[wrong].__name__}; {self._again}'
                )
        return rows

    def pictures(self, what: str, patterns: Places, names: Iterable[Mapping[str, str]]) -> list[Path]:
        """Return paths of pictures: each of `names` fills the patterns; the first that leads to a file is taken.

        Raises:
            DataError: pictures are missing (unless not `strict`).
        """
        places = [Path(folder) / pattern for folder in self.benchmark.folders for pattern in patterns]
        paths, missing = [], []
        for values in names:
            at = self._first(places, values) if self.look else 0
            if at is None:
                missing.append(patterns[0].format_map(values))
            elif at:
                places.insert(0, places.pop(at))  # the others will lie there too
            paths.append(self.images / str(places[0]).format_map(values))
        if self.look:
            self._count(f"{what} pictures", len(paths), missing)
        return paths

    def _count(self, what: str, of: int, missing: Sequence[str]) -> None:
        self.counts.append(Count(what, of - len(missing), of, missing[0] if missing else None))
        if missing and self.strict and not self.lenient:
            raise DataError(
                f"{len(missing):,} of {of:,} {what} are missing under {self.images}, the first is {missing[0]}; "
                f"`mllm-embed-eval check {self.benchmark.name} --data {self.data}` tells what is wanted where"
            )

    def _first(self, places: Sequence[Path], values: Mapping[str, str]) -> int | None:
        """Return which of the places leads to a file; a folder is listed once, for all of its pictures."""
        for at, place in enumerate(places):
            path = self.images / str(place).format_map(values)
            if path.parent not in self._listings:
                # one listing instead of a look for each of 100,000 pictures, which a network disk would feel
                self._listings[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
            if path.name in self._listings[path.parent]:
                return at
        return None

    @property
    def _again(self) -> str:
        return f"fetch it again from {self.benchmark.annotations}"


def _wrong_key(row: Any, types: Mapping[str, type]) -> str | None:
    """Return the first key that a row lacks, or that has a value of another type; None for none."""
    for key, kind in types.items():
        value = row.get(key) if isinstance(row, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):  # a bool is an int, and no number here
            return key
    return None


def find_files(
    benchmark: Benchmark, data: Path, images: Path | None, split: str, options: Options
) -> tuple[BenchmarkFiles, list[Count]]:
    """Find the benchmark's annotation files under `data`; return them, and what was found of each.

    Raises:
        DataError: `data` or `images` is no folder.
    """
    images = images or data
    for root in (data, images):
        if not root.is_dir():
            raise DataError(f"{root} is {'not a folder' if root.exists() else 'missing'}: give the benchmark's folder")
    paths, counts = {}, []
    for what, places in benchmark.files(split, options).items():
        path = _first_file(data, places, benchmark.folders)
        if path is None:
            counts.append(Count(what, 0, 1, places[0]))
        else:
            counts.append(Count(what, 1, 1, None))
            paths[what] = path
    return BenchmarkFiles(benchmark, data, images, paths), counts


def _first_file(root: Path, places: Places, folders: Places) -> Path | None:
    tried = (root / folder / place for place in places for folder in folders)
    return next((path for path in tried if path.is_file()), None)


def with_defaults(benchmark: Benchmark, split: str | None, options: Options) -> tuple[str, dict[str, str]]:
    """Return split and options with the defaults filled in.

    Raises:
        ConfigError: an unknown split, option or value, with those that exist.
    """
    split = split or benchmark.splits[0]
    if split not in benchmark.splits:
        known = ", ".join(filter(None, benchmark.splits)) or "none"
        raise ConfigError(f"{benchmark.name} has no split '{split}'; it has {known}")
    _check_options(benchmark, options)
    # Defaults are named too: should one ever change, results by the old one do not look like those by the new.
    return split, {key: options.get(key, values[0]) for key, values in benchmark.options.items()}


def _check_options(benchmark: Benchmark, options: Options) -> None:
    for key, value in options.items():
        if key not in benchmark.options:
            known = ", ".join(benchmark.options) or "none"
            raise ConfigError(f"{benchmark.name} has no option '{key}'; it has {known}")
        if value not in benchmark.options[key]:
            values = ", ".join(benchmark.options[key])
            raise ConfigError(f"option {key} of {benchmark.name} is one of {values}, not '{value}'")


def chosen_tasks(options: Options, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tasks that the option "task" names."""
    return tasks if options["task"] == ALL_TASKS else (options["task"],)


def composed_query(image: ImageLike, text: str) -> Query:
    """Return the composed query; the picture alone where the annotators left the text empty, as once in CIRR test1."""
    return Query(image=image, instruction=text.strip() or None)


def documents(paths: Iterable[Path]) -> list[Document]:
    """Return gallery items of pictures alone."""
    return [Document(image=path) for path in paths]


def unique(ids: Sequence[str], where: str) -> list[str]:
    """Return the ids as a list. Raise DataError for an id that stands twice."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise DataError(f'{where}: the id "{name}" stands twice')
        seen.add(name)
    return list(ids)


def distinct(ids: Iterable[str]) -> list[str]:
    """Return the ids, with #2, #3 behind one that stood there before, where a file may name a thing more than once."""
    seen: dict[str, int] = {}
    names = []
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def positions_by_id(ids: Iterable[str]) -> dict[str, int]:
    """Return gallery id -> position."""
    return {name: position for position, name in enumerate(ids)}


def position_of(place: Mapping[str, int], name: str, where: str) -> int:
    """Return the gallery position of an id. Raise DataError for an id that is not in the gallery."""
    if name not in place:
        raise DataError(f'{where}: "{name}" is not in the gallery: the annotation files are of different versions')
    return place[name]


def positions_of(place: Mapping[str, int], ids: Iterable[str], where: str) -> tuple[int, ...]:
    """Return the gallery positions of ids. Raise DataError as `position_of`."""
    return tuple(position_of(place, name, where) for name in ids)
