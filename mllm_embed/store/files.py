"""The files of a vector store: manifest, shards, and which rows were removed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataError
from ..files import atomic_file, flush_to_disk, json_bytes, read_json
from ..vectors.precision import to_precision

STORE_FORMAT = "mllm_embed vectors 1"
MANIFEST, SHARDS, REMOVED = "manifest.json", "shards", "removed.npy"
VECTORS_SUFFIX, RECORD_SUFFIX = ".npy", ".json"
DTYPES = ("float32", "float16", "int8")
_ENTRIES = {"dimension": int, "dtype": str, "made_by": dict, "shards": list}  # of a manifest, beside its format
CURE = "restore it, or encode again elsewhere"
"""What to do about a damaged file of a store."""
_UNIT = 1e-3  # how far a vector's length may be from 1 before it is taken for a mistake


@dataclass(frozen=True)
class StoreShard:
    """A pair of files of a store: their name, number of rows, and sha256 of the vectors' file."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """The file beside a shard's vectors.

    Args:
        ids: one a row.
        sources: where each row's picture lies, None where that is not known.
        lost: inputs that could not be read and have no row: id, source, reason.
        sha256: of the vectors' file.
    """

    ids: list[str]
    sources: list[str | None]
    lost: list[dict[str, str]]
    sha256: str

    def shard(self, name: str) -> StoreShard:
        """Return the entry of this shard, which is called `name`, in the store's manifest."""
        return StoreShard(name, len(self.ids), self.sha256)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a store says of itself.

    Raises:
        DataError: the folder is no store, its manifest is damaged, or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} is no vector store (it has no {MANIFEST}): make one with `mllm-embed encode`")
    manifest = read_json(path, CURE)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != STORE_FORMAT:
        raise DataError(f"{path} has the format {found!r}, this version reads {STORE_FORMAT!r}: update mllm_embed")
    bad = [key for key, kind in _ENTRIES.items() if not isinstance(manifest.get(key), kind)]
    if bad or manifest["dtype"] not in DTYPES:
        raise DataError(f"{path} is damaged ({', '.join(bad) or 'dtype'}): {CURE}")
    return manifest


def shard_name(number: int) -> str:
    """Return what the files of a shard are called, but for their suffixes."""
    return f"{number:06d}"


def vectors_file(folder: Path, name: str) -> Path:
    """Return where the vectors of a shard of the store in `folder` lie."""
    return folder / SHARDS / f"{name}{VECTORS_SUFFIX}"


def record_file(folder: Path, name: str) -> Path:
    """Return where the record of a shard of the store in `folder` lies: where it is, the shard is whole."""
    return folder / SHARDS / f"{name}{RECORD_SUFFIX}"


def write_shard(
    folder: Path,
    name: str,
    dtype: np.dtype,
    ids: Sequence[str],
    vectors: np.ndarray,
    sources: Sequence[str | None],
    lost: Sequence[Mapping[str, str]] = (),
) -> ShardRecord:
    """Write the two files of a shard, which is part of no store yet; the record comes last, and says that it is whole.

    Args:
        folder: of the store.
        name: of the shard, as of `shard_name`.
        dtype: of the store.
        ids, sources, lost: as in `ShardRecord`.
        vectors: [n, D] floats of unit length.

    Returns:
        What was written beside the vectors.

    Raises:
        DataError: a vector holds NaN or is of another length, or the disk is full.
    """
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < _UNIT))
    if len(wrong):
        at = wrong[0]
        what = "holds NaN or infinite numbers" if not np.isfinite(lengths[at]) else f"has the length {lengths[at]:.3g}"
        raise DataError(f'the vector of "{ids[at]}" {what}: a store keeps vectors of unit length')
    path = vectors_file(folder, name)
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, _encoded(vectors, dtype), allow_pickle=False)
        flush_to_disk(temporary)  # before the rename: after a power cut there must be no named file without its bytes
        digest = sha256_of(temporary)
    record = ShardRecord(list(ids), list(sources), [dict(entry) for entry in lost], digest)
    with atomic_file(record_file(folder, name)) as temporary:
        temporary.write_bytes(json_bytes(asdict(record)))
        flush_to_disk(temporary)
    return record


def read_record(folder: Path, name: str) -> ShardRecord:
    """Return the record beside a shard's vectors. Raises DataError where it is missing or damaged."""
    path = record_file(folder, name)
    content = read_json(path, CURE)
    try:
        return ShardRecord(**content)
    except TypeError as error:
        raise DataError(f"{path} is damaged ({error}): {CURE}") from error


def written_shards(folder: Path) -> list[str]:
    """Return the names of all whole shards in the folder, those that belong to the store or not yet, in order."""
    records = (folder / SHARDS).glob(f"*{RECORD_SUFFIX}")
    return sorted(path.stem for path in records if path.stem.isdigit())  # which no lock or half-written file is called


def next_number(folder: Path) -> int:
    """Return the first number that is beyond all shards."""
    written = written_shards(folder)
    return int(written[-1]) + 1 if written else 0


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal. Raises DataError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _digest(file: BinaryIO) -> str:
    """Return the sha256 of an open file as Python 3.11's `hashlib.file_digest` does, for Python 3.10."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _encoded(vectors: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return vectors [n, D] in the number format of a store."""
    return to_precision(vectors, "int8") if dtype == np.int8 else vectors.astype(dtype, copy=False)


def read_removed(path: Path, rows: int) -> np.ndarray:
    """Return the numbers [R] int64 of the removed ones of so many rows, in order. Raises DataError for a bad file."""
    if not path.is_file():
        return np.empty(0, np.int64)
    try:
        removed = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}): restore it, or delete it to bring all rows back") from error
    if removed.dtype != np.int64 or removed.ndim != 1 or (len(removed) and not 0 <= removed.min() <= removed.max()):
        raise DataError(f"{path} holds no row numbers: restore it, or delete it to bring all rows back")
    return np.array(removed[removed < rows])
