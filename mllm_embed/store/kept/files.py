"""The files of kept columns: one a shard, beside its vectors, whose rows it follows.

    STORE/shards/000000-0123456789ab.parquet    id and kept columns of each row; the name ends as its sha256 begins

A file is never written to again. Other values are another file, which the next manifest names; then the former one
goes, and a reader of the former manifest reads the next one.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.kept import ID
from ...errors import DataError, first_line
from ...files import atomic_file, flush_to_disk
from ..files import CURE, SHARDS, StoreShard, bytes_of, read_record
from ..records import DIGEST_LENGTH

if TYPE_CHECKING:
    from ..columns import Columns

_NAME_LENGTH = 12  # of the sha256 in a file's name


@dataclass(frozen=True)
class Kept:
    """What a manifest says of kept columns.

    Args:
        columns: their names, in order.
        files: from the name of a shard to the sha256 of its file; a shard without one has no values.
    """

    columns: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Return what stands in a manifest; nothing where nothing is kept, as in stores of before."""
        return {"kept": {"columns": list(self.columns), "files": dict(self.files)}} if self.columns else {}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Kept:
        """Return what stands in a manifest that `kept_facts` found right."""
        found = content.get("kept")
        return cls() if found is None else cls(tuple(found["columns"]), found["files"])

    def stems(self) -> set[str]:
        """Return the names of the files, but for their endings."""
        return {_stem(shard, sha256) for shard, sha256 in self.files.items()}


def kept_facts(content: Mapping[str, Any], shards: set[str]) -> bool:
    """Tell whether a manifest of these shards says of kept columns what can be."""
    found = content.get("kept")
    if found is None:
        return True
    if not isinstance(found, dict) or found.keys() != {"columns", "files"}:
        return False
    columns, files = found["columns"], found["files"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        return False
    checksums = isinstance(files, dict) and files.keys() <= shards and all(map(_is_sha256, files.values()))
    return checksums and len(set(columns)) == len(columns) and ID not in columns


def kept_file(folder: Path, shard: str, sha256: str) -> Path:
    """Return where the file of a shard of the store in `folder` lies."""
    return folder / SHARDS / f"{_stem(shard, sha256)}.parquet"


def write_kept(folder: Path, shard: str, ids: Sequence[str], table: Any) -> str:
    """Write the kept columns of a shard, and return the sha256 of the file; it belongs to no store yet.

    Args:
        folder: of the store.
        shard: its name.
        ids: [n], one a row.
        table: a `pyarrow.Table` of n rows.

    Raises DataError where the disk fails.
    """
    import pyarrow
    import pyarrow.parquet

    whole = table.add_column(0, ID, pyarrow.array(ids, pyarrow.string()))
    written = io.BytesIO()
    pyarrow.parquet.write_table(whole, written, compression="zstd")
    content = written.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    with atomic_file(kept_file(folder, shard, sha256)) as aside:
        aside.write_bytes(content)
        flush_to_disk(aside)
    return sha256


def remove_former(folder: Path, former: Kept, now: Kept) -> None:
    """Remove the files of a former manifest that the one of now does not name."""
    for shard, sha256 in former.files.items():
        if now.files.get(shard) != sha256:
            with suppress(PermissionError):  # that another process reads just now, on Windows: the next work removes it
                kept_file(folder, shard, sha256).unlink(missing_ok=True)


def read_kept(folder: Path, shard: str, sha256: str, ids: Sequence[str]) -> Columns:
    """Return the kept columns of a shard with these ids.

    Raises:
        FileMissing: the file is not there.
        DataError: it is not what was written.
    """
    import pyarrow
    import pyarrow.parquet

    from ..columns import Columns

    path = kept_file(folder, shard, sha256)
    if not path.is_file():
        raise FileMissing(f"{path} is missing: {CURE}")
    content = bytes_of(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is not what was written: {CURE}")
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        if table[ID].to_pylist() != list(ids):
            raise DataError("its ids are not those of the vectors")
        return Columns(table.drop_columns([ID]), len(table))
    except (DataError, KeyError, OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} is damaged ({first_line(error)}): {CURE}") from error


def verify_kept(folder: Path, shard: StoreShard, kept: Kept) -> None:
    """Read the kept columns of a shard. Raises DataError where they are not what was written."""
    if shard.name in kept.files:
        read_kept(folder, shard.name, kept.files[shard.name], read_record(folder, shard).ids)


class FileMissing(DataError):
    """A file of kept columns that is not there: another has come to its place since the manifest was read, perhaps."""


def _stem(shard: str, sha256: str) -> str:
    return f"{shard}-{sha256[:_NAME_LENGTH]}"


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{DIGEST_LENGTH}}}", value) is not None
