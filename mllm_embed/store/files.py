"""The files of a vector store's shards: vectors, and the record beside them."""

from __future__ import annotations

import hashlib
import tokenize
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, MLLMEmbedError, reason
from ..files import atomic_file, flush_to_disk, json_bytes, parse_json
from ..vectors.precision import to_precision
from .records import ShardRecord, record_facts, runs

MANIFEST, SHARDS = "manifest.json", "shards"
VECTORS_SUFFIX, RECORD_SUFFIX = ".npy", ".json"
DTYPES = ("float32", "float16", "int8")
CURE = "restore it, or encode again elsewhere"
"""What to do about a damaged file of a store."""
ARRAY_ERRORS = (
    ValueError, OSError, EOFError, OverflowError, MemoryError, SyntaxError, TypeError, RecursionError,
    tokenize.TokenError,
)  # fmt: skip
"""What reading a damaged .npy file raises: numpy reads the header as Python, and passes on what that makes of it."""
_UNIT = 1e-3  # how far a vector's length may be from 1 before it is taken for a mistake
_PIECE = 1 << 20  # bytes that are read at a time
_HEADER = 1 << 10  # bytes of an .npy file before its vectors, at most: numpy writes 128


@dataclass(frozen=True)
class StoreShard:
    """What the manifest says of a pair of files.

    Args:
        name: of both, but for their suffixes.
        rows: how many there are.
        sha256: of the vectors' file.
        crc32: of the same, which is three times as quick; None in stores of format 1.
        record: sha256 of the record's file; None in stores of format 1.
        vectors: how many vectors its rows have together; None where each has one.
    """

    name: str
    rows: int
    sha256: str
    crc32: int | None = None
    record: str | None = None
    vectors: int | None = None

    @property
    def height(self) -> int:
        """How many vectors its file holds."""
        return self.rows if self.vectors is None else self.vectors

    @property
    def content(self) -> dict[str, Any]:
        """What the manifest says; nothing of `vectors` where a row has one, as `ShardRecord.content`."""
        return {key: value for key, value in asdict(self).items() if key != "vectors" or value is not None}


def shard_name(number: int) -> str:
    """Return what the files of a shard are called, but for their suffixes."""
    return f"{number:06d}"


def shard_names(first: int, rows: int, size: int) -> list[str]:
    """Return the names of the shards of so many rows, `size` a shard, from a number on."""
    return [shard_name(first + at) for at in range(-(-rows // size))]


def vectors_file(folder: Path, name: str) -> Path:
    """Return where the vectors of a shard of the store in `folder` lie."""
    return folder / SHARDS / f"{name}{VECTORS_SUFFIX}"


def record_file(folder: Path, name: str) -> Path:
    """Return where the record of a shard of the store in `folder` lies: where it is, the shard is whole."""
    return folder / SHARDS / f"{name}{RECORD_SUFFIX}"


def lexical_file(folder: Path, name: str) -> Path:
    """Return where the lexical vectors of a shard of the store in `folder` lie, if it has any."""
    return folder / SHARDS / f"{name}.lexical.npz"


def checked_lexical_file(folder: Path, name: str, said: str) -> Path:
    """Return the file of a shard's lexical vectors. Raises DataError where it is missing, or has another sha256."""
    path = lexical_file(folder, name)
    if not path.is_file():
        raise DataError(f"{path} is missing: {CURE}")
    if sha256_of(path) != said:
        raise DataError(f"{path} is not what was written: {CURE}")
    return path


def write_shard(
    folder: Path,
    name: str,
    dtype: np.dtype,
    ids: Sequence[str],
    vectors: np.ndarray,
    sources: Sequence[str | None],
    lost: Sequence[Mapping[str, str]] = (),
    digests: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
    counts: Sequence[int] | None = None,
    lexical: str | None = None,
) -> None:
    """Write the two files of a shard, which is part of no store yet; the record comes last, and says that it is whole.

    Args:
        folder: of the store.
        name: of the shard, as of `shard_name`.
        dtype: of the store.
        ids, sources, lost, lexical: as in `ShardRecord`.
        vectors: [n, D] floats of unit length, where a row has several [m, D], row by row.
        digests, origins: of each row, where they are known.
        counts: how many vectors each row has; None for one.

    Raises:
        DataError: a vector holds NaN or is of another length, or the disk is full.
    """
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < _UNIT))
    if len(wrong):
        at = wrong[0]
        row = at if counts is None else int(np.searchsorted(np.cumsum(counts), at, side="right"))
        what = "holds NaN or infinite numbers" if not np.isfinite(lengths[at]) else f"has the length {lengths[at]:.3g}"
        raise DataError(f'the vector of "{ids[row]}" {what}: a store keeps vectors of unit length')
    path = vectors_file(folder, name)
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, _encoded(vectors, dtype), allow_pickle=False)
        flush_to_disk(temporary)  # before the rename: after a power cut there must be no named file without its bytes
        sha256, crc32 = sha256_of(temporary), crc32_of(temporary)
    record = ShardRecord(
        list(ids),
        list(sources),
        [dict(entry) for entry in lost],
        sha256,
        crc32,
        None if digests is None else "".join(digests),
        None if origins is None else runs(origins),
        None if counts is None else list(counts),
        lexical,
    )
    with atomic_file(record_file(folder, name)) as temporary:
        temporary.write_bytes(json_bytes(record.content))
        flush_to_disk(temporary)


@contextmanager
def discarded_on_failure(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Remove new shards of these names again where what is done within fails."""
    try:
        yield
    except MLLMEmbedError:
        for name in names:
            record_file(folder, name).unlink(missing_ok=True)
            vectors_file(folder, name).unlink(missing_ok=True)
        raise


def read_shard(folder: Path, name: str) -> tuple[StoreShard, ShardRecord]:
    """Return what the manifest is to say of a shard that was written, and its record.

    Raises DataError where the record is missing or damaged.
    """
    path = record_file(folder, name)
    content = bytes_of(path)
    record = _record(path, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return StoreShard(name, len(record.ids), record.sha256, record.crc32, sha256, record.vectors), record


def read_record(folder: Path, entry: StoreShard) -> ShardRecord:
    """Return the record of a shard that the manifest names. Raises DataError where it is not what was written."""
    found, record = read_shard(folder, entry.name)
    if entry.record is not None and found.record != entry.record:
        raise DataError(f"{record_file(folder, entry.name)} is not what was written: {CURE}")
    # in a store of format 1 the manifest says no more than this of it
    if (found.rows, found.sha256, found.vectors) != (entry.rows, entry.sha256, entry.vectors):
        raise DataError(
            f"{record_file(folder, entry.name)} has {found.rows:,} ids and belongs to other vectors than the "
            f"{entry.rows:,} that {folder / MANIFEST} names: {CURE}"
        )
    return record


def map_vectors(folder: Path, entry: StoreShard, dimension: int, dtype: np.dtype, verify: bool) -> np.ndarray:
    """Return the vectors [height, D] of a shard as they are stored, mapped from its file.

    Args:
        folder: of the store.
        entry: what the manifest says of the shard.
        dimension, dtype: of the store.
        verify: compare the file with its checksum first, which takes what reading it takes.

    Raises:
        DataError: the file is missing or damaged.
    """
    if not entry.height:
        return np.empty((0, dimension), dtype)  # nothing of which there could be a map
    path = vectors_file(folder, entry.name)
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except ARRAY_ERRORS as error:
        raise DataError(f"{path} is damaged ({error}): {CURE}") from error
    if found.shape != (entry.height, dimension) or found.dtype != dtype:
        shape = f"{entry.height} x {dimension}"
        raise DataError(f"{path} is {found.dtype} of shape {found.shape}, not {dtype} of {shape}: {CURE}")
    if verify:
        _check_vectors(path, entry, quick=True)
    return found


def check_size(folder: Path, entry: StoreShard, dimension: int, dtype: np.dtype) -> None:
    """Raise DataError for a shard's vectors that are missing, or cannot be so many: a look at the disk tells."""
    path = vectors_file(folder, entry.name)
    if not path.is_file():
        raise DataError(f"{path} is missing: {CURE}")
    found, least = path.stat().st_size, entry.height * dimension * dtype.itemsize
    if not least < found <= least + _HEADER:
        raise DataError(f"{path} is damaged ({found:,} bytes are not {entry.height:,} vectors): {CURE}")


def verify_shard(folder: Path, entry: StoreShard) -> None:
    """Read all files of a shard, and raise DataError naming the first that is not what was written."""
    lexical = read_record(folder, entry).lexical
    _check_vectors(vectors_file(folder, entry.name), entry, quick=False)
    if lexical is not None:
        checked_lexical_file(folder, entry.name, lexical)


def _check_vectors(path: Path, entry: StoreShard, quick: bool) -> None:
    quick = quick and entry.crc32 is not None
    if crc32_of(path) != entry.crc32 if quick else sha256_of(path) != entry.sha256:
        raise DataError(f"{path} is not what was written: {CURE}")


def written_shards(folder: Path) -> list[str]:
    """Return the names of all whole shards in the folder, those that belong to the store or not yet, in order."""
    records = (folder / SHARDS).glob(f"*{RECORD_SUFFIX}")
    names = (path.stem for path in records if path.stem.isdecimal())  # which no lock or half-written file is called
    return sorted(names, key=int)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal. Raises DataError for one that cannot be read."""
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def crc32_of(path: Path) -> int:
    """Return the CRC-32 of a file. Raises DataError for one that cannot be read."""
    crc = 0
    for piece in _pieces(path):
        crc = zlib.crc32(piece, crc)
    return crc


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def bytes_of(path: Path) -> bytes:
    """Return the content of a file of a store. Raises DataError for one that is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {CURE}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def _record(path: Path, content: bytes) -> ShardRecord:
    """Return the record that a file holds. Raises DataError where it is none."""
    try:
        record = ShardRecord(**parse_json(content))
        wrong = next((what for what, right in record_facts(record) if not right), None)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): {CURE}") from error
    if wrong:
        raise DataError(f"{path} is damaged ({wrong}): {CURE}")
    return record


def _encoded(vectors: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return vectors [n, D] in the number format of a store."""
    return to_precision(vectors, "int8") if dtype == np.int8 else vectors.astype(dtype, copy=False)
