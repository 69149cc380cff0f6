"""Open the sources of a stage: what can be known before training is checked here, in one sentence a mistake."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from mllm_embed.data.folder import FILES, DataFolder
from mllm_embed.data.tables import Record, kind_of
from mllm_embed.errors import DataError, did_you_mean

from .files import files_of, table_of
from .folder import read_rows
from .formats import FORMATS, Format
from .formats.columns import EXAMPLES
from .formats.format import COLUMNS, Finish
from .roles import PICTURE_ROLES
from .rows import ListRows, MixedRows, SourceRows
from .source import DataSource
from .table_rows import TableRows, cell, offering

_CHECKED_RECORDS = 100  # the first, whose columns and roles are looked at
_CHECKED_ROWS = 16  # from all over the source, whose pictures are looked for
_LISTED = 10_000  # entries of a folder among which a better one is looked for


def open_rows(
    sources: Sequence[DataSource], kind: str, roles: Sequence[str], needed_by: str = "a term of the loss"
) -> MixedRows:
    """Return the rows of all sources as `kind`, "pairs", "triplets" or "texts", each offering at least `roles`.

    `needed_by` is what needs these roles, for a message.

    Nothing is held in memory but where each record lies, except for format folder, which is read and checked whole.

    Raises DataError for a source that is missing, not of its format, without a column or role that is needed, or whose
    pictures are not where it says.
    """
    openers = (OPENERS.get(source.format, open_table) for source in sources)
    return MixedRows(
        [opener(source, kind, list(roles), needed_by) for opener, source in zip(openers, sources, strict=True)]
    )


def open_folder(source: DataSource, kind: str, roles: list[str], needed_by: str) -> SourceRows:
    """Return the rows of a data folder of our own. Pictures that no role needs may be missing.

    Raises DataError as `open_rows`.
    """
    if source.columns or source.pool:
        raise DataError(f"{source.path}: a data folder says by itself where everything is; leave out columns and pool")
    _check_folder(source.path, kind)
    needed = not set(PICTURE_ROLES).isdisjoint(roles)
    if needed and source.images and not source.images.is_dir():
        raise DataError(f"{source.path}: images is {source.images}, which is no folder")
    folder = DataFolder.open(source.path, needed, source.images)
    return ListRows(source, read_rows(folder, source.path, kind, roles, needed_by), folder.fingerprint())


def _check_folder(path: Path, kind: str) -> None:
    """Raise DataError for a folder that holds a table in place of a data folder's files, and say how that is read."""
    if not path.is_dir() or any((path / name).exists() for name in FILES):
        return
    tables = sorted(file for file in path.iterdir() if kind_of(file) in FORMATS["columns"].suffixes and file.is_file())
    if tables:
        source = f"{{path: {tables[0]}, format: columns, columns: {EXAMPLES[kind]}}}"
        raise DataError(
            f"{path} is no data folder: it holds none of {', '.join(FILES)}; give its {tables[0].name} as {source}, or "
            f"to a command as {tables[0]} with --column OURS=THEIRS for each of these"
        )


OPENERS: dict[str, Callable[[DataSource, str, list[str], str], SourceRows]] = {"folder": open_folder}


def open_table(source: DataSource, kind: str, roles: list[str], needed_by: str) -> SourceRows:
    """Return the rows of a source in any other format. Raises DataError as `open_rows`."""
    format = FORMATS[source.format]
    _check_source(source, format, kind)
    files = files_of(source, format)
    table = table_of(source, format, files)
    rows = TableRows(source, format, table, kind, roles, {**format.columns, **source.columns}, format.finish)
    _check_columns(rows)  # before the second file is opened, which may take minutes to read
    rows.finish, rows.tasks_file = _finish(source, format, files[0]), tasks_file(source, format, files[0])
    rows.instructed = format.instructed(rows.tasks_file) if format.instructed else None
    _check_roles(rows, roles, needed_by)
    if format.mixed:  # after the check of some rows: this looks at all of them
        rows = replace(rows, selected=offering(rows, roles))
    _check_pictures(rows, roles)
    return rows


def _check_source(source: DataSource, format: Format, kind: str) -> None:
    if kind not in format.kinds:
        raise DataError(f"{source.path}: format {source.format} gives {' or '.join(format.kinds)}, not {kind}")
    known = dict.fromkeys((*format.columns, *COLUMNS))
    for ours in source.columns:
        if ours not in known:
            raise DataError(
                f"{source.path}: columns has '{ours}', which is none of {', '.join(known)}{did_you_mean(ours, known)}"
            )


def _finish(source: DataSource, format: Format, file: Path) -> Finish | None:
    """Return what is left to do with the values of a record, with the second file opened where the format has one."""
    if format.join and format.pool:
        return format.join(source.pool or format.pool(file))
    if source.pool:
        raise DataError(f"{source.path}: format {source.format} has no second file; leave out pool")
    return format.finish


def tasks_file(source: DataSource, format: Format, file: Path) -> Path | None:
    """Return the file with a source's task instructions: its own, or that of the release, where it is there.

    Raise DataError for one that is missing, or that the format does not read.
    """
    if source.tasks and not format.instructed:
        raise DataError(f"{source.path}: format {source.format} has no file of task instructions; leave out tasks")
    if source.tasks and not source.tasks.is_file():
        raise DataError(f"{source.path}: tasks: {source.tasks} is no file; give the one with the task instructions")
    there = format.tasks(file) if format.tasks else None
    return source.tasks or (there if there and there.is_file() else None)


def _check_columns(rows: TableRows) -> None:
    records = _readable(rows)
    there = list(dict.fromkeys(name for record in records for name in record))
    shown = ", ".join(there)[:200]
    if not rows.columns:
        raise DataError(f"{rows.source.path}: give columns: {EXAMPLES[rows.kind]}; the file has {shown}")
    needed = rows.columns.keys() - (rows.format.optional - rows.source.columns.keys())
    for ours, theirs in rows.columns.items():
        if ours in needed and not any(cell(record, theirs)[0] for record in records):
            raise DataError(
                f"{rows.source.path} has no column '{theirs}' for {ours}; it has {shown}{did_you_mean(theirs, there)}"
            )


def _readable(rows: TableRows) -> list[Record]:
    """Return those of the first records that can be read. Raises DataError where there are none."""
    first = list(_first_records(rows))
    records = [record for record in first if not isinstance(record, DataError)]
    if not records:
        raise DataError(f"{rows.source.path}: none of its first rows can be read: {first[0]}")
    return records


def _check_roles(rows: TableRows, roles: list[str], needed_by: str) -> None:
    offered = _offered(rows)
    lacking = [role for role in roles if role not in offered]
    if lacking and not rows.format.mixed:
        raise DataError(
            f"{rows.source.path}: its rows offer {', '.join(offered) or 'nothing'}, and {needed_by} needs {lacking[0]}"
        )


def _offered(rows: TableRows) -> list[str]:
    """Return the roles that the first rows offer. Raises DataError where no row can be made of them."""
    made, problem = [], None
    for index, record in enumerate(_first_records(rows)):
        try:
            made.append(rows.make(record, index))
        except DataError as error:
            problem = problem or f"{rows.name(index)}: {error}"
    if not made:
        raise DataError(f"{rows.source.path}: none of its first rows can be used: {problem}")
    return list(dict.fromkeys(role for row in made for role in row.roles))


def _first_records(rows: TableRows) -> Iterator[Record | DataError]:
    for index in range(min(_CHECKED_RECORDS, len(rows.table))):
        try:
            yield rows.table.record(index)
        except DataError as error:
            yield error


def _check_pictures(rows: TableRows, roles: list[str]) -> None:
    """Raise DataError where no picture is there: a wrong folder is one mistake, not a million unreadable rows."""
    if not len(rows):
        raise DataError(f"{rows.source.path}: none of its {len(rows.table):,} rows offers {' and '.join(roles)}")
    missing = []
    for index in range(0, len(rows), max(1, len(rows) // _CHECKED_ROWS)):
        for path in _picture_files(rows, index, roles):
            if path.is_file():
                return
            missing.append((index, path))
    if missing:
        index, path = missing[0]
        cure = _elsewhere(rows.root(index), path, rows.format)
        raise DataError(f"{rows.name(index)}: the picture {path} does not exist{cure}")


def _picture_files(rows: TableRows, index: int, roles: list[str]) -> list[Path]:
    try:
        row = rows[index]
    except DataError:
        return []
    pictures = [picture for role in roles for picture in row.roles[role].images]
    return [picture for picture in pictures if isinstance(picture, Path)]


def _elsewhere(root: Path, path: Path, format: Format) -> str:
    """Return what to do about a missing picture: the folder from which its name would be right, where one is near."""
    name = os.path.relpath(path, root)
    for folder in _folders_near(root):
        for ending in ("", *format.extensions):
            found = folder / f"{name}{ending}"
            if found.is_file():
                return f", but {found} does: give images: {folder}"
    hint = f" ({format.hint})" if format.hint else ""
    return f"; give images, the folder from which '{name}' is the way to it{hint}"


def _folders_near(root: Path) -> list[Path]:
    entries = islice(os.scandir(root), _LISTED) if root.is_dir() else ()
    children = sorted(Path(entry.path) for entry in entries if entry.is_dir())
    return [*children, root.parent, root.parent.parent]
