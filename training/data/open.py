"""Opens the sources of a stage: what can be known before training is checked here, in one sentence a mistake."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from mllm_embed.data.folder import DataFolder
from mllm_embed.errors import DataError, did_you_mean
from mllm_embed.types import ImageLike

from .files import files_of, table_of
from .folder import read_rows
from .formats import FORMATS
from .formats.columns import EXAMPLES
from .formats.format import COLUMNS
from .roles import PICTURE_ROLES
from .row import TrainingRow
from .rows import ListRows, MixedRows, TableRows, TrainingRows, cell, needed
from .source import DataSource

_LOOKED_AT = 100
_PICTURES = 16
_ENTRIES = 10_000


def open_rows(sources: Sequence[DataSource], kind: str, roles: Sequence[str]) -> MixedRows:
    """The rows of all sources as `kind`, "pairs", "triplets" or "texts", each offering at least `roles`.

    Nothing is held in memory but where each record lies, except for format folder, which is read and checked whole.

    Raises DataError for a source that is missing, not of its format, without a column or role that is needed, or whose
    pictures are not where it says.
    """
    return MixedRows([OPENERS.get(source.format, open_table)(source, kind, list(roles)) for source in sources])


def open_folder(source: DataSource, kind: str, roles: list[str]) -> ListRows:
    """A data folder of our own; it is not looked for pictures that no role needs."""
    if source.images or source.columns or source.pool:
        raise DataError(
            f"{source.path}: a data folder says by itself where everything is; leave out images and columns"
        )
    folder = DataFolder.open(source.path, pictures=not set(PICTURE_ROLES).isdisjoint(roles))
    return ListRows(source, read_rows(folder, source.path, kind, roles), folder.fingerprint())


OPENERS: dict[str, Callable[[DataSource, str, list[str]], TrainingRows]] = {"folder": open_folder}


def open_table(source: DataSource, kind: str, roles: list[str]) -> TableRows:
    """A source in any other format."""
    format = FORMATS[source.format]
    if kind not in format.kinds:
        raise DataError(f"{source.path}: format {source.format} gives {' or '.join(format.kinds)}, not {kind}")
    known = dict.fromkeys((*format.columns, *COLUMNS))
    for ours in source.columns:
        if ours not in known:
            raise DataError(
                f"{source.path}: columns has '{ours}', which is none of {', '.join(known)}{did_you_mean(ours, known)}"
            )
    files = files_of(source, format)
    table = table_of(source, format, files)
    columns = {**format.columns, **source.columns}
    rows = TableRows(source, format, table, kind, roles, columns, format.finish)
    _check_columns(rows)
    if format.join and format.pool:
        rows.finish = format.join(source.pool or format.pool(files[0]))
    elif source.pool:
        raise DataError(f"{source.path}: format {source.format} has no second file; leave out pool")
    _check_roles(rows, roles)
    if format.mixed:
        rows = replace(rows, kept=needed(rows, roles))
    _check_pictures(rows, roles)
    return rows


def _check_columns(rows: TableRows) -> None:
    records = [record for record in _first(rows) if isinstance(record, dict)]
    if not records:
        error = next(iter(_first(rows)))
        raise DataError(f"{rows.source.path}: none of its first rows can be read: {error}")
    there = list(dict.fromkeys(name for record in records for name in record))
    if not rows.columns:
        raise DataError(
            f"{rows.source.path}: give columns: {EXAMPLES[rows.kind]}; the file has {', '.join(there)[:200]}"
        )
    optional = rows.format.optional - rows.source.columns.keys()
    for ours, theirs in rows.columns.items():
        if ours not in optional and not any(cell(record, theirs)[0] for record in records):
            raise DataError(
                f"{rows.source.path} has no column '{theirs}' for {ours}; it has {', '.join(there)[:200]}"
                f"{did_you_mean(theirs, there)}"
            )


def _check_roles(rows: TableRows, roles: list[str]) -> None:
    made, problem = [], None
    for index, record in enumerate(_first(rows)):
        try:
            made.append(rows.make(record, index))
        except DataError as error:
            problem = problem or f"{rows.name(index)}: {error}"
    if not made:
        raise DataError(f"{rows.source.path}: none of its first rows can be used: {problem}")
    offered = list(dict.fromkeys(role for row in made for role in row.roles))
    lacking = [role for role in roles if role not in offered]
    if lacking and not rows.format.mixed:
        raise DataError(
            f"{rows.source.path}: its rows offer {', '.join(offered) or 'nothing'}, and a term of the loss needs "
            f"{lacking[0]}"
        )


def _check_pictures(rows: TableRows, roles: list[str]) -> None:
    """A wrong folder of pictures is one mistake, not a million unreadable rows."""
    if not len(rows):
        raise DataError(f"{rows.source.path}: none of its {len(rows.table):,} rows offers {' and '.join(roles)}")
    step = max(1, len(rows) // _PICTURES)
    missing = []
    for index in range(0, len(rows), step):
        for path in _paths(rows, index, roles):
            if path.is_file():
                return
            missing.append((index, path))
    if missing:
        index, path = missing[0]
        root = rows.root(rows.table.place(rows._record(index))[0])
        raise DataError(f"{rows.name(index)}: the picture {path} does not exist{_elsewhere(root, path, rows)}")


def _paths(rows: TableRows, index: int, roles: list[str]) -> list[Path]:
    try:
        row: TrainingRow = rows[index]
    except DataError:
        return []
    pictures: list[ImageLike] = [picture for role in roles for picture in row.roles[role].images]
    return [picture for picture in pictures if isinstance(picture, Path)]


def _elsewhere(root: Path, path: Path, rows: TableRows) -> str:
    """What to do about it: the folder from which the name would be right, where one is near."""
    name = os.path.relpath(path, root)
    entries = islice(os.scandir(root), _ENTRIES) if root.is_dir() else ()
    children = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    for folder in (*children, root.parent, root.parent.parent):
        found = next(
            (f for f in (folder / name, *(folder / f"{name}{e}" for e in rows.format.extensions)) if f.is_file()), 0
        )
        if found:
            return f", but {found} does: give images: {folder}"
    hint = f" ({rows.format.hint})" if rows.format.hint else ""
    return f"; give images, the folder from which '{name}' is the way to it{hint}"


def _first(rows: TableRows) -> Iterable[object]:
    for index in range(min(_LOOKED_AT, len(rows.table))):
        try:
            yield rows.table.record(index)
        except DataError as error:
            yield error
