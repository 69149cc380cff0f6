"""What a vector store says of itself, which is what makes files a store: shards, removed rows, and checksums of all.

    STORE/manifest.json    format, dimension, dtype, what made the vectors, shards, removed rows, sources, kept columns,
                           own checksum
    STORE/removed.npy      numbers of the rows that were removed, in the order in which they were

A change is written in two steps: removed.npy grows at its end, then the manifest says how much of it counts. A reader,
who reads the manifest first, sees all of a change or nothing, and so does who comes after a kill between the steps.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import atomic_file, flush_to_disk, read_json, write_json
from ..locks import LOCK_FILE
from .files import ARRAY_ERRORS, CURE, DTYPES, MANIFEST, StoreShard, read_record, record_file, sha256_of
from .kept.files import Kept, kept_facts
from .records import ShardRecord

STORE_FORMAT = "mllm_embed vectors 2"
REMOVED = "removed.npy"
_FORMER_FORMAT = "mllm_embed vectors 1"
"""Without checksums of manifest, records and removed rows, which it gets when the store is next written to."""
_SHARD_KEYS = {"name", "rows", "sha256", "crc32", "record", "vectors"}
_ENTRIES = {"dimension": int, "dtype": str, "made_by": dict, "shards": list}  # of a manifest, beside its format


@dataclass(frozen=True)
class Manifest:
    """What makes files a store.

    Args:
        dimension: length D of the vectors.
        dtype: one of DTYPES.
        made_by: plain JSON that tells these vectors from any others.
        shards: in the order of their rows.
        removed: [R] int64 numbers of the rows that were removed, in the order in which they were.
        data: plain JSON of each source: its "path", and what it held.
        kept: the columns that are kept beside the vectors.
    """

    dimension: int
    dtype: str
    made_by: dict[str, Any]
    shards: tuple[StoreShard, ...] = ()
    removed: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    data: tuple[dict[str, Any], ...] = ()
    kept: Kept = field(default_factory=Kept)

    @property
    def fingerprint(self) -> str:
        """A sha256 that changes whenever rows are added or removed."""
        digest = hashlib.sha256(self.rows_fingerprint(len(self.shards)).encode())
        digest.update(np.sort(self.removed).tobytes())
        return digest.hexdigest()

    def rows_fingerprint(self, shards: int) -> str:
        """Return a sha256 of what the first so many shards hold, removed rows or not: adding others leaves it."""
        facts = [{"name": shard.name, "rows": shard.rows, "sha256": shard.sha256} for shard in self.shards[:shards]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Return what makes the files in a folder a store.

    Raises:
        DataError: the folder is no store, its manifest or removed.npy is damaged, or it is of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} is no vector store (it has no {MANIFEST}): make one with `mllm-embed encode`")
    content = read_json(path, CURE)
    found = content.get("format") if isinstance(content, dict) else None
    if found not in (STORE_FORMAT, _FORMER_FORMAT):
        raise DataError(f"{path} has the format {found!r}, this version reads {STORE_FORMAT!r}: update mllm_embed")
    wrong = next((what for what, right in _facts(content) if not right), None)
    if wrong:
        raise DataError(f"{path} is damaged ({wrong}): {CURE}")
    shards = tuple(StoreShard(**entry) for entry in content["shards"])
    removed = _read_removed(folder / REMOVED, sum(entry.rows for entry in shards), content.get("removed"))
    data = tuple(content.get("data", ()))
    kept = Kept.read(content)
    return Manifest(content["dimension"], content["dtype"], content["made_by"], shards, removed, data, kept)


def create_manifest(folder: Path, dimension: int, dtype: str, made_by: Mapping[str, Any]) -> None:
    """Make a folder a store without shards. Raises DataError where it holds something, or no store has the dtype."""
    if dtype not in DTYPES:
        raise DataError(f"a store keeps {', '.join(DTYPES)}, not {dtype}")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: give a folder for the store")
    if folder.is_dir() and any(entry.name != LOCK_FILE for entry in folder.iterdir()):
        raise DataError(f"{folder} holds something already: give a new or empty folder for the store")
    write_manifest(folder, Manifest(dimension, dtype, dict(made_by)))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a folder the store that a manifest describes, whose shards are there already.

    Raises:
        DataError: the disk fails; the store then stays as it was.
    """
    if len(manifest.removed):
        with atomic_file(folder / REMOVED) as path:
            with path.open("wb") as file:
                np.save(file, manifest.removed, allow_pickle=False)
            flush_to_disk(path)
    content = {
        "format": STORE_FORMAT,
        "dimension": manifest.dimension,
        "dtype": manifest.dtype,
        "made_by": manifest.made_by,
        "data": list(manifest.data),
        "shards": [_completed(folder, entry).content for entry in manifest.shards],
        "removed": {"rows": len(manifest.removed), "sha256": hashlib.sha256(manifest.removed.tobytes()).hexdigest()},
        # beside the shards rather than in their entries, where versions that know of none would not read them
        **manifest.kept.content(),
    }
    write_json(folder / MANIFEST, content | {"checksum": _checksum(content)})


def without(manifest: Manifest, rows: Iterable[int]) -> Manifest:
    """Return a manifest that has these row numbers removed."""
    was = set(manifest.removed.tolist())
    new = np.array([row for row in dict.fromkeys(rows) if row not in was], np.int64)
    return replace(manifest, removed=np.concatenate([manifest.removed, new]))


def with_shards(
    manifest: Manifest,
    new: Sequence[tuple[StoreShard, ShardRecord]],
    positions: Mapping[str, int],
    data: Iterable[Mapping[str, Any]],
) -> Manifest:
    """Return a manifest with more shards, whose rows take the place of older ones of their ids.

    Args:
        manifest: of the store as it is.
        new: the shards with their records.
        positions: the number of each id that is alive.
        data: facts of sources, which take the place of older ones of the same path.
    """
    last, gone = dict(positions), []
    ids = chain.from_iterable(record.ids for _, record in new)
    for row, name in enumerate(ids, sum(entry.rows for entry in manifest.shards)):
        if name in last:
            gone.append(last[name])
        last[name] = row
    shards = (*manifest.shards, *(entry for entry, _ in new))
    facts = {entry["path"]: dict(entry) for entry in (*manifest.data, *data)}
    return without(replace(manifest, shards=shards, data=tuple(facts.values())), gone)


def _completed(folder: Path, entry: StoreShard) -> StoreShard:
    """Return an entry with a checksum of its record, which those of format 1 have not got."""
    if entry.record is not None:
        return entry
    read_record(folder, entry)  # which fails where it is another shard's
    return replace(entry, record=sha256_of(record_file(folder, entry.name)))


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the sha256 of what a manifest says, but for its checksum."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _facts(content: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield what must hold for a manifest, in the order in which it can be looked at."""
    for key, kind in _ENTRIES.items():
        yield key, type(content.get(key)) is kind
    yield "dimension", content["dimension"] > 0
    yield "dtype", content["dtype"] in DTYPES
    yield "shards", all(map(_is_shard, content["shards"]))
    names = [entry["name"] for entry in content["shards"]]
    yield "a shard is named twice", len(set(names)) == len(names)
    yield "kept", kept_facts(content, set(names))
    data = content.get("data", [])
    yield "data", isinstance(data, list) and all(map(_is_source, data))
    if content["format"] == STORE_FORMAT:
        yield "removed", _is_removed(content.get("removed"))
        yield "it is not what was written", content.get("checksum") == _checksum(content)
    else:
        yield "format", "checksum" not in content  # which that format has not got


def _is_shard(entry: Any) -> bool:
    """Tell whether a manifest's entry names a shard; a name with a slash would lead out of the store."""
    if not isinstance(entry, dict) or not {"name", "rows", "sha256"} <= entry.keys() <= _SHARD_KEYS:
        return False
    texts = all(isinstance(entry[key], str) for key in ("name", "sha256"))
    numbers = type(entry["rows"]) is int and entry["rows"] >= 0 and type(entry.get("vectors", 0)) is int
    checksums = type(entry.get("crc32")) in (int, type(None)) and type(entry.get("record")) in (str, type(None))
    return texts and bool(re.fullmatch("[0-9]+", entry["name"])) and numbers and checksums


def _is_source(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("path"), str)


def _is_removed(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("rows")) is int and isinstance(entry.get("sha256"), str)


def _read_removed(path: Path, rows: int, said: Mapping[str, Any] | None) -> np.ndarray:
    """Return the numbers [R] int64 of the removed ones of so many rows.

    Args:
        path: of the file; what stands in it beyond what the manifest names is of a process that was killed.
        rows: of the store.
        said: how many the manifest names, and their sha256; None in stores of format 1, where all count.
    """
    if not path.is_file():
        if said and said["rows"]:
            raise DataError(
                f"{path} is missing, without which {said['rows']:,} removed rows would be found again: {CURE}"
            )
        return np.empty(0, np.int64)
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except ARRAY_ERRORS as error:
        raise DataError(f"{path} is damaged ({error}): {CURE}") from error
    if found.dtype != np.int64 or found.ndim != 1:
        raise DataError(f"{path} holds no row numbers: {CURE}")
    found = found[found < rows] if said is None else found[: said["rows"]]
    if said is not None and hashlib.sha256(found.tobytes()).hexdigest() != said["sha256"]:
        raise DataError(f"{path} is not what was written: {CURE}")
    if len(found) and not 0 <= found.min() <= found.max() < rows:
        raise DataError(f"{path} holds no row numbers: {CURE}")
    return found
