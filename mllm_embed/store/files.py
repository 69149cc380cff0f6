"""The files of a vector store: manifest, shards, and which rows were removed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataError
from ..files import atomic_file, read_json, synced
from ..vectors.precision import to_precision

FORMAT = "mllm_embed vectors 1"
MANIFEST, SHARDS, REMOVED = "manifest.json", "shards", "removed.npy"
DTYPES = ("float32", "float16", "int8")
_UNIT = 1e-3  # how far a vector's length may be from 1 before it is taken for a mistake


@dataclass(frozen=True)
class StoreShard:
    """A pair of files of a store: their name, number of rows, and sha256 of the vectors' file."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """What stands beside a shard's vectors.

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
        return StoreShard(name, len(self.ids), self.sha256)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a store is. Raises DataError for a folder that is none, a damaged manifest, and another format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} is no vector store (it has no {MANIFEST}): make one with `mllm-embed encode`")
    manifest = read_json(path, "restore it, or encode again elsewhere")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        told = manifest.get("format") if isinstance(manifest, dict) else None
        raise DataError(f"{path} has the format {told!r}, this version reads {FORMAT!r}: update mllm_embed")
    kinds = {"dimension": int, "dtype": str, "made_by": dict, "shards": list}
    bad = [key for key, kind in kinds.items() if not isinstance(manifest.get(key), kind)]
    if bad or manifest["dtype"] not in DTYPES:
        raise DataError(f"{path} is damaged ({', '.join(bad) or 'dtype'}): restore it, or encode again elsewhere")
    return manifest


def write_shard(
    folder: Path,
    name: str,
    dtype: np.dtype,
    ids: Sequence[str],
    vectors: np.ndarray,
    sources: Sequence[str | None],
    lost: Sequence[Mapping[str, str]] = (),
) -> ShardRecord:
    """Write the two files of a shard, which is part of no store yet; the .json comes last, and says that it is whole.

    Args:
        folder: of the store.
        name: of the shard, its number in six digits.
        dtype: of the store.
        ids, sources, lost: as in `ShardRecord`.
        vectors: [n, D] floats of unit length.

    Raises DataError for a vector with NaN or of another length, and a full disk.
    """
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < _UNIT))
    if len(wrong):
        at = wrong[0]
        what = "holds NaN or infinite numbers" if not np.isfinite(lengths[at]) else f"has the length {lengths[at]:.3g}"
        raise DataError(f'the vector of "{ids[at]}" {what}: a store keeps vectors of unit length')
    path = folder / SHARDS / f"{name}.npy"
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, _encoded(vectors, dtype), allow_pickle=False)
        synced(temporary)
        digest = sha256_of(temporary)
    record = ShardRecord(list(ids), list(sources), [dict(entry) for entry in lost], digest)
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(record), ensure_ascii=False) + "\n", encoding="utf-8")
        synced(temporary)
    return record


def read_record(folder: Path, name: str) -> ShardRecord:
    """What stands beside a shard's vectors. Raises DataError where it is missing or damaged."""
    path = folder / SHARDS / f"{name}.json"
    content = read_json(path, "restore it, or encode again elsewhere")
    try:
        return ShardRecord(**content)
    except TypeError as error:
        raise DataError(f"{path} is damaged ({error}): restore it, or encode again elsewhere") from error


def written_shards(folder: Path) -> list[str]:
    """The names of all whole shards in the folder, those that belong to the store or not yet, in order."""
    return sorted(path.stem for path in (folder / SHARDS).glob("*.json") if path.stem.isdigit())


def next_number(folder: Path) -> int:
    """The number that no shard has yet."""
    written = written_shards(folder)
    return int(written[-1]) + 1 if written else 0


def sha256_of(path: Path) -> str:
    """Raises DataError for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _digest(file: BinaryIO) -> str:
    """For Python 3.10."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _encoded(vectors: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return to_precision(vectors, "int8") if dtype == np.int8 else vectors.astype(dtype, copy=False)


def read_removed(path: Path, rows: int) -> np.ndarray:
    """[R] int64 numbers of the removed ones of so many rows, in order. Raises DataError for a damaged file."""
    if not path.is_file():
        return np.empty(0, np.int64)
    try:
        removed = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}): restore it, or delete it to bring all rows back") from error
    if removed.dtype != np.int64 or removed.ndim != 1 or (len(removed) and not 0 <= removed.min() <= removed.max()):
        raise DataError(f"{path} holds no row numbers: restore it, or delete it to bring all rows back")
    return np.array(removed[removed < rows])
