"""The lexical vectors of a store: one file a shard, beside its dense vectors, whose rows it follows.

    STORE/shards/000000.lexical.npz    a CSR matrix, as scipy.sparse.save_npz writes it, without pickle

The record of the shard has its sha256, and the manifest that of the record.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from scipy.sparse import csr_array, load_npz, save_npz, vstack

from ...errors import DataError
from ...files import atomic_file, flush_to_disk
from ..files import (
    ARRAY_ERRORS,
    CURE,
    StoreShard,
    bytes_of,
    checked_lexical_file,
    lexical_file,
    read_record,
    sha256_of,
)  # fmt: skip
from ..vector_store import VectorStore


def write_lexical(folder: Path, name: str, words: csr_array | None) -> str | None:
    """Write the lexical vectors [N, V] of a shard's rows, and return the sha256 of the file.

    It belongs to no store before the shard's record says so. None where there are no such vectors. Raises DataError
    where the disk is full.
    """
    if words is None:
        return None
    with atomic_file(lexical_file(folder, name)) as temporary:
        with temporary.open("wb") as file:
            save_npz(file, words)
        flush_to_disk(temporary)
        return sha256_of(temporary)


def read_lexical(store: VectorStore) -> csr_array:
    """Return the lexical vectors of all rows of a store, removed ones too: [N, V] float32.

    Raises DataError for a store, or rows of one, without such vectors, and for a file that is missing or not what was
    written.
    """
    parts = [_read(store.folder, shard) for shard in store.shards if shard.rows]
    lacking = sum(shard.rows for shard, part in zip(filter(_rows, store.shards), parts, strict=True) if part is None)
    if lacking or not parts:
        raise DataError(
            f"{lacking:,} of the {len(store):,} rows of {store.folder} have no lexical vectors: encode a new store "
            "with a model that has them, or search with dense vectors alone"
        )
    return vstack(parts, format="csr")


def verify_lexical(folder: Path, shard: StoreShard) -> None:
    """Raise DataError where the lexical vectors of a shard, if it has any, are not what was written."""
    _read(folder, shard)


def _rows(shard: StoreShard) -> int:
    return shard.rows


def _read(folder: Path, shard: StoreShard) -> csr_array | None:
    said = read_record(folder, shard).lexical
    if said is None:
        return None
    path = checked_lexical_file(folder, shard.name, said)
    try:
        found = load_npz(io.BytesIO(bytes_of(path)))
    except (*ARRAY_ERRORS, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}): {CURE}") from error
    if found.shape[0] != shard.rows:
        raise DataError(f"{path} has {found.shape[0]:,} rows, not {shard.rows:,}: {CURE}")
    return csr_array(found)
