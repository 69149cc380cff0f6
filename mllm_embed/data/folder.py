"""The documented data folder: pictures and up to four files, all checked before any work starts.

    images/...         pictures, named in the files relative to the folder
    pairs.jsonl        {"id", "image", "caption"} a line: training, stage 1
    triplets.jsonl     {"id", "image", "instruction", "target_image" and/or "target_text", "avoid"?,
                        "source_text"?, "paraphrases"?, "negative_image"?, "kind"?} a line: training,
                       stage 2
    texts.jsonl        {"id", "source_text", "target_text", "instruction"?, "negative_text"?} a line:
                       training without pictures, stage 0
    benchmark.json     {"name", "gallery": [{"id", "image", "text"?, "caption"?}],
                        "queries": [{"id", "image", "instruction", "targets": [ids],
                                     "avoid"?, "exclude": [ids]?, "kind"?}],
                        "sessions": [{"id", "targets": [ids], "exclude": [ids]?, "kind"?,
                                      "turns": [{"image", "instruction"}]}]}: evaluation;
                       queries, sessions, or both; "image" from the second turn on as needed

The "image" of a triplet or a query may be a list of pictures, and so may a triplet's "negative_image", which must not
be found; "avoid" says in words what must not be seen. A gallery entry's "text" is embedded with its picture (a product
and its description); its "caption" is not, and asks for the picture in a task of its own.

Further keys are allowed and ignored, unless one looks like a misspelling of a key that is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path

from ..errors import DataError
from ..text import half_character
from .folder_sessions import FolderSession, session_of
from .json_rows import Checks, JsonRow, array_rows, image_complaint, json_lines

PAIRS, TRIPLETS, BENCHMARK, TEXTS = "pairs.jsonl", "triplets.jsonl", "benchmark.json", "texts.jsonl"
FILES = (PAIRS, TRIPLETS, BENCHMARK, TEXTS)
_SHOWN = 20
# pictures and the gallery's texts are digested apart; paraphrases and negatives change no ranking
_NOT_IN_FINGERPRINT = ("image", "text", "paraphrases", "negatives", "avoid")


@dataclass(frozen=True)
class Pair:
    """A picture and what it shows; `task` is what an embedder of many tasks is told of the one that asks."""

    id: str
    image: Path
    caption: str
    task: str | None = None


@dataclass(frozen=True)
class Triplet:
    """One picture or several, an instruction, and the target: a picture, a text, or both; `task` as of a `Pair`.

    `paraphrases` are other words for the instruction, one of which may be read in its place, `negative_images` what
    must not be found: wrong answers that were chosen for it, and `avoid` words for what must not be seen.
    """

    id: str
    image: Path | tuple[Path, ...]
    instruction: str
    target_image: Path | None = None
    target_text: str | None = None
    source_text: str | None = None
    kind: str | None = None
    task: str | None = None
    paraphrases: tuple[str, ...] = ()
    negative_images: tuple[Path, ...] = ()
    avoid: str | None = None


@dataclass(frozen=True)
class TextRow:
    """A text, what must be found for it (or for it as `instruction` changes it), and what must not: no pictures.

    `task` as of a `Pair`.
    """

    id: str
    source_text: str
    target_text: str
    instruction: str | None = None
    negative_text: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class GalleryItem:
    """A picture that can be found, with a text that belongs to it where it has one."""

    id: str
    image: Path
    caption: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class BenchmarkQuery:
    """A question: picture or pictures, instruction, the gallery ids that are right, those left out of its ranking.

    `paraphrases` are other words for the instruction, `negatives` gallery ids that its words rule out, and `avoid`
    words for what must not be seen.
    """

    id: str
    image: Path | tuple[Path, ...]
    instruction: str
    targets: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    kind: str | None = None
    paraphrases: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    avoid: str | None = None


@dataclass(frozen=True)
class FolderBenchmark:
    """A gallery, and the queries and sessions asked of it. The order of the gallery decides between equal scores."""

    name: str
    gallery: tuple[GalleryItem, ...]
    queries: tuple[BenchmarkQuery, ...]
    sessions: tuple[FolderSession, ...] = ()

    @property
    def asked(self) -> tuple[BenchmarkQuery, ...]:
        """The queries, and each turn of the sessions as a query of its own."""
        turns = []
        for session in self.sessions:
            for number, turn in enumerate(session.turns, 1):
                about = (turn.image, turn.instruction, session.targets, session.exclude, session.kind)
                turns.append(BenchmarkQuery(f"{session.id}, turn {number}", *about))
        return (*self.queries, *turns)

    def fingerprint(self) -> str:
        """Return the sha256 over ids, texts, targets, exclusions, and name and size of every picture."""
        digest = hashlib.sha256(self.name.encode())
        entries: tuple[GalleryItem | BenchmarkQuery, ...] = (*self.gallery, *self.asked)
        for entry in entries:
            pictures = _listed(entry.image)
            files = [fact for picture in pictures for fact in (picture.name, picture.stat().st_size)]
            values = [getattr(entry, part.name) for part in fields(entry) if part.name not in _NOT_IN_FINGERPRINT]
            # last, and only where there is one: a benchmark without them keeps the fingerprint that it always had
            words = entry.text if isinstance(entry, GalleryItem) else entry.avoid
            digest.update(json.dumps([*files, *values, *([words] if words else [])]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class DataFolder:
    """The checked contents of a folder; open one with `DataFolder.open`.

    Attributes:
        root: the folder.
        pairs, triplets, texts: the rows of its files, in their order; none for a file that is not there.
        benchmark: the gallery and queries of benchmark.json, None without it.
        digest: sha256 over the names and contents of the files, as `fingerprint` returns it.
        images: the folder that the names of pictures start from; None where it is `root`.
    """

    root: Path
    pairs: list[Pair] = field(default_factory=list)
    triplets: list[Triplet] = field(default_factory=list)
    benchmark: FolderBenchmark | None = None
    digest: str = ""
    texts: list[TextRow] = field(default_factory=list)
    images: Path | None = None

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], pictures: bool = True, images: str | os.PathLike[str] | None = None
    ) -> DataFolder:
        """Read and check a folder; without `pictures`, not whether those are there.

        The names of pictures start from the folder `images`, for files about pictures that lie elsewhere, and by
        default from `path`.

        Raises:
            DataError: the folder is missing or empty, or anything in it is wrong; up to 20 problems are named
                with file and line in one message.
        """
        root = Path(path)
        _check_root(root)
        pictures_root = None if images is None else Path(images)
        checks = Checks(root, look=pictures, images=pictures_root)
        pairs = [_pair(row) for row in json_lines(checks, PAIRS)]
        triplets = [_triplet(row) for row in json_lines(checks, TRIPLETS)]
        benchmark = _benchmark(checks) if (root / BENCHMARK).is_file() else None
        texts = [_text_row(row) for row in json_lines(checks, TEXTS)]
        if checks.problems:
            raise DataError(_message(checks))
        return cls(root, pairs, triplets, benchmark, _digest(root), texts, pictures_root)

    def pictures(self) -> dict[Path, str | None]:
        """Return every picture that the files name, and what is wrong with it: None for those that are there."""
        entries: list[Pair | Triplet | GalleryItem | BenchmarkQuery] = [*self.pairs, *self.triplets]
        if self.benchmark:
            entries += [*self.benchmark.gallery, *self.benchmark.asked]
        shown = [picture for entry in entries for picture in _listed(entry.image)]
        shown += [triplet.target_image for triplet in self.triplets if triplet.target_image]
        paths = dict.fromkeys([*shown, *chain.from_iterable(triplet.negative_images for triplet in self.triplets)])
        start = self.images or self.root
        return {path: image_complaint(path, os.path.relpath(path, start)) for path in paths}

    def fingerprint(self) -> str:
        """Return the sha256 over names and contents of the four files (those that existed when it was opened)."""
        return self.digest


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{root} is {'not a folder' if root.exists() else 'missing'}: give a data folder")
    if not any((root / name).is_file() for name in FILES):
        empty = "empty folder " if not any(root.iterdir()) else ""
        raise DataError(f"{empty}{root} is no data folder: it holds none of {', '.join(FILES)}")


def _listed(image: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    return image if isinstance(image, tuple) else (image,)


def _digest(root: Path) -> str:
    digest = hashlib.sha256()
    for file in (root / name for name in FILES):
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def open_benchmark(path: str | os.PathLike[str], pictures: bool = True) -> FolderBenchmark:
    """Return the benchmark of a data folder; without `pictures`, it is not looked whether those are there.

    Raises:
        DataError: as `DataFolder.open`, and for a folder without benchmark.json.
    """
    folder = DataFolder.open(path, pictures)
    if folder.benchmark is None:
        raise DataError(f"{folder.root} has no {BENCHMARK}: there is nothing to evaluate")
    return folder.benchmark


def read_pairs(file: str | os.PathLike[str]) -> list[Pair]:
    """Return the rows of a file in the form of pairs.jsonl, whatever its name, with pictures relative to its folder.

    Raises:
        DataError: as `DataFolder.open`, for this file alone.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"{file} is {'not a file' if file.exists() else 'missing'}: give a file like {PAIRS}")
    checks = Checks(file.parent)
    pairs = [_pair(row) for row in json_lines(checks, file.name)]
    if checks.problems:
        raise DataError(_message(checks))
    return pairs


def _pair(row: JsonRow) -> Pair:
    row.known("id", "image", "caption", "task")
    return Pair(row.text("id"), row.image("image"), row.text("caption"), row.optional_text("task"))


def _triplet(row: JsonRow) -> Triplet:
    row.known(
        "id", "image", "instruction", "target_image", "target_text", "source_text", "kind", "task", "paraphrases",
        "negative_image", "avoid",
    )  # fmt: skip
    if not row.has("target_image") and not row.has("target_text"):
        row.problem("needs target_image or target_text")
    return Triplet(
        row.text("id"),
        row.images("image"),
        row.text("instruction"),
        row.image("target_image") if row.has("target_image") else None,
        row.optional_text("target_text"),
        row.optional_text("source_text"),
        row.optional_text("kind"),
        row.optional_text("task"),
        row.texts("paraphrases") if row.has("paraphrases") else (),
        _listed(row.images("negative_image")) if row.has("negative_image") else (),
        row.optional_text("avoid"),
    )


def _text_row(row: JsonRow) -> TextRow:
    row.known("id", "source_text", "target_text", "instruction", "negative_text", "task")
    return TextRow(
        row.text("id"),
        row.text("source_text"),
        row.text("target_text"),
        row.optional_text("instruction"),
        row.optional_text("negative_text"),
        row.optional_text("task"),
    )


def _benchmark(checks: Checks) -> FolderBenchmark:
    content, rows = array_rows(checks, BENCHMARK, ("gallery",), ("queries", "sessions"))
    name = content.get("name")
    if content and (not isinstance(name, str) or not name.strip() or half_character(name)):
        checks.problems.append(f'{BENCHMARK}: "name" must be a non-empty string')
    gallery = tuple(_gallery_item(row) for row in rows["gallery"])
    ids = {item.id for item in gallery}
    queries = tuple(_query(row, ids) for row in rows["queries"])
    return FolderBenchmark(str(name), gallery, queries, tuple(session_of(row, ids) for row in rows["sessions"]))


def _gallery_item(row: JsonRow) -> GalleryItem:
    row.known("id", "image", "caption", "text")
    return GalleryItem(row.text("id"), row.image("image"), row.optional_text("caption"), row.optional_text("text"))


def _query(row: JsonRow, gallery: set[str]) -> BenchmarkQuery:
    row.known("id", "image", "instruction", "targets", "exclude", "kind", "paraphrases", "negatives", "avoid")
    targets = row.ids("targets")
    exclude = row.ids("exclude") if row.has("exclude") else ()
    negatives = row.ids("negatives") if row.has("negatives") else ()
    for word, ids in (("target", targets), ("excluded id", exclude), ("negative", negatives)):
        row.check_known(word, ids, gallery)
    row.check_apart(targets, exclude, "excluded")
    row.check_apart(targets, negatives, "a negative")
    if not targets and isinstance(row.values.get("targets"), list):
        row.problem("targets is empty")
    return BenchmarkQuery(
        row.text("id"),
        row.images("image"),
        row.text("instruction"),
        targets,
        exclude,
        row.optional_text("kind"),
        row.texts("paraphrases") if row.has("paraphrases") else (),
        negatives,
        row.optional_text("avoid"),
    )


def _message(checks: Checks) -> str:
    problems, root = checks.problems, f"{checks.root}{f', with pictures from {checks.images}' if checks.images else ''}"
    shown = problems[:_SHOWN]
    if len(problems) > _SHOWN:
        shown.append(f"and {len(problems) - _SHOWN} more")
    if len(problems) == 1:
        return f"1 problem in {root}: {shown[0]}"
    return "\n  ".join([f"{len(problems)} problems in {root}:", *shown])
