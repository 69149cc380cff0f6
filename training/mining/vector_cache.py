"""Vectors that are being made, on disk: work that was stopped goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError, DataError, ModelError, reason
from mllm_embed.files import read_json, write_json
from mllm_embed.types import Item

MANIFEST = "vectors.json"
PICTURES = "pictures.npy"  # what the pictures hold (`pictures.PictureContents`), beside the vectors
BLOCK_INPUTS = 256  # inputs that are embedded between two notes of how many are done
ELSEWHERE = "give another --vectors"
MAX_UNREADABLE = 0.01  # share of unreadable inputs with which the rest is still worth something


class VectorCache:
    """A folder with NAME.npy for each list of items, and vectors.json: what made them, and how many are done.

    Args:
        folder: made where it is missing.
        provenance: plain JSON that tells these vectors from any others.
        most: share of unreadable inputs with which the rest is still worth something; by default 1 %.
        elsewhere: what to do to have the folder elsewhere, for a message.

    `unreadable` holds, for each list, the places of items that cannot be read, and why; their vectors are 0.

    Raises ConfigError for a folder that holds vectors of another model or of other items, or something else, and
    DataError for one that cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        provenance: Mapping[str, Any],
        most: float | None = None,
        elsewhere: str = ELSEWHERE,
    ):
        self.folder, self.provenance, self.elsewhere = folder, dict(provenance), elsewhere
        self.most = MAX_UNREADABLE if most is None else most
        self.done: dict[str, int] = {}
        self.unreadable: dict[str, dict[int, str]] = {}
        check_folder(folder, elsewhere)
        if (folder / MANIFEST).is_file():
            self._resume()
        self._write_manifest()  # before any vector: a folder without it is not known again

    def encode(
        self,
        name: str,
        items: Sequence[Item],
        encoder: MLLMEmbedder,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> np.ndarray:
        """Return the vectors [N, D] float32 of `items`, from disk (as a memory map) where they have been made before.

        Raises ModelError for a vector with NaN, DataError for more unreadable items than `most` or a full disk, and
        what `encoder.encode` raises; what was done until then stays.
        """
        path, shape = self.folder / f"{name}.npy", (len(items), encoder.dimension)
        done = self.done.get(name, 0) if path.is_file() else 0
        vectors = _opened(path, shape, done, self.elsewhere)
        unreadable = self.unreadable[name] = self.unreadable.get(name, {}) if done else {}
        _check_readable(unreadable, len(items), self.most, self.folder)  # an earlier run may have let more pass
        hide = None if progress is None else not progress
        with tqdm(total=len(items), initial=done, desc=f"embedding {name}", disable=hide, mininterval=1) as bar:
            for start in range(done, len(items), BLOCK_INPUTS):
                block = items[start : start + BLOCK_INPUTS]
                reasons: dict[int, str] = {}
                found = encoder.encode(block, batch_size=batch_size, show_progress=False, unreadable=reasons)
                # by place: the encoder finds damaged files later than missing ones
                unreadable.update((start + place, reasons[place]) for place in sorted(reasons))
                _check_readable(unreadable, len(items), self.most, self.folder)
                _check_finite(found, block)
                # vectors first, then how many there are: killed in between, the block is made again
                vectors[start : start + len(block)] = found
                vectors.flush()
                self.done[name] = start + len(block)
                self._write_manifest()
                bar.update(len(block))
        return np.asarray(vectors)

    def _resume(self) -> None:
        """Take up what an earlier run left. Raises ConfigError where it was made by anything else."""
        manifest = read_json(self.folder / MANIFEST, f"remove {self.folder}")
        if not isinstance(manifest, dict) or manifest.get("made_by") != self.provenance or "done" not in manifest:
            raise ConfigError(
                f"{self.folder} holds vectors of another model or of other data; remove it, or {self.elsewhere}"
            )
        try:
            self.done = {str(name): int(count) for name, count in manifest["done"].items()}
            self.unreadable = {name: dict(found) for name, found in manifest.get("lost", {}).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.folder / MANIFEST} is damaged; remove {self.folder}") from error

    def _write_manifest(self) -> None:
        unreadable = {name: list(found.items()) for name, found in self.unreadable.items()}
        write_json(self.folder / MANIFEST, {"made_by": self.provenance, "done": self.done, "lost": unreadable})


def lost_in(folder: Path) -> dict[str, dict[int, str]]:
    """Return what could not be read of the lists of items whose vectors a folder holds, as `VectorCache.unreadable`.

    Raises ConfigError for a damaged folder.
    """
    manifest = read_json(folder / MANIFEST, f"remove {folder}")
    try:
        return {name: dict(found) for name, found in manifest.get("lost", {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / MANIFEST} is damaged; remove {folder}") from error


def check_folder(folder: Path, elsewhere: str = ELSEWHERE) -> None:
    """Raise ConfigError for a folder that is not there for vectors; one that is missing or empty is.

    `elsewhere` is as of `VectorCache`.
    """
    if (folder / MANIFEST).is_file() or not folder.exists():
        return
    if not folder.is_dir() or any(path.name != PICTURES for path in folder.iterdir()):
        raise ConfigError(f"{folder} holds something else than vectors; {elsewhere}")


def _check_readable(unreadable: Mapping[int, str], count: int, most: float, folder: Path) -> None:
    if len(unreadable) > most * count:
        raise DataError(
            f"{len(unreadable)} of {count:,} inputs cannot be read, more than max_unreadable {most:g} allows: "
            f"{next(iter(unreadable.values()))}; replace them and remove {folder}, or raise max_unreadable"
        )


def _check_finite(vectors: np.ndarray, items: Sequence[Item]) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ModelError(f"the vector of {items[bad[0]]} holds NaN: nothing can be near it; mend the model")


def _opened(path: Path, shape: tuple[int, int], done: int, elsewhere: str) -> np.memmap:
    """Return the file of `shape` on disk, new where nothing of it is done; all its room is taken at once."""
    try:
        if done:  # one that was cut is refused here; opened for writing, it would be filled with zeros
            np.lib.format.open_memmap(path, mode="r")
        vectors = np.lib.format.open_memmap(
            path, mode="r+" if done else "w+", dtype=None if done else np.float32, shape=None if done else shape
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be used ({error}); remove {path.parent}") from error
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise ConfigError(
            f"{path} is {vectors.dtype} of shape {vectors.shape}, not float32 of {shape}; remove {path.parent}"
        )
    if not done:
        _reserve(path, elsewhere)
    return vectors


def _reserve(path: Path, elsewhere: str) -> None:
    """Take the room of a new, sparse file: a memory map that finds the disk full kills the process.

    Raises DataError where there is no room.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    size = path.stat().st_size
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise DataError(
                f"cannot write {path}, which takes {size / 1e6:,.1f} MB: {reason(error)}; make room, or {elsewhere}"
            ) from error
