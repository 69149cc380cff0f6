"""Vectors that are being made, on disk: work that was stopped goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mllm_embed.errors import ConfigError, DataError, ModelError
from mllm_embed.files import read_json, write_json
from mllm_embed.types import Item

from .reading import BLOCK, ReadingEncoder, encode_readable

MANIFEST = "vectors.json"
_LOST = 0.01  # share of unreadable inputs with which the rest is still worth something


class VectorCache:
    """A folder with NAME.npy for each list of items, and vectors.json: what made them, and how many are done.

    `lost` holds, for each list, the places of items that cannot be read, and why; their vectors are 0.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any]):
        """Open or make `folder`; `provenance` is plain JSON that tells these vectors from any others.

        Raises ConfigError for a folder that holds vectors of another model or of other items, or something else, and
        DataError for one that cannot be written.
        """
        self.folder, self.provenance = folder, dict(provenance)
        self.done: dict[str, int] = {}
        self.lost: dict[str, dict[int, str]] = {}
        if folder.is_dir() and (folder / MANIFEST).is_file():
            told = read_json(folder / MANIFEST, f"remove {folder}")
            if not isinstance(told, dict) or told.get("made_by") != self.provenance or "done" not in told:
                raise ConfigError(
                    f"{folder} holds vectors of another model or of other data; remove it, or give another --vectors"
                )
            self.done = told["done"]
            self.lost = {name: dict(found) for name, found in told.get("lost", {}).items()}
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} holds something else than vectors; give another --vectors")
        self._note()  # before any vector: a folder without it is not known again

    def encode(
        self,
        name: str,
        items: Sequence[Item],
        encoder: ReadingEncoder,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> np.ndarray:
        """[N, D] float32 of `items`, read from disk (as a memory map) where they have been made before.

        Raises ModelError for a vector with NaN, DataError for more than 1 % of items that cannot be read or a full
        disk, and what `encoder.encode` raises; what was done until then stays.
        """
        path, shape = self.folder / f"{name}.npy", (len(items), encoder.dimension)
        done = self.done.get(name, 0) if path.is_file() else 0
        made = _opened(path, shape, done)
        lost = self.lost[name] = self.lost.get(name, {}) if done else {}
        hide = None if progress is None else not progress
        with tqdm(total=len(items), initial=done, desc=f"embedding {name}", disable=hide, mininterval=1) as bar:
            for start in range(done, len(items), BLOCK):
                block = items[start : start + BLOCK]
                vectors, reasons = encode_readable(block, encoder, batch_size)
                if len(lost) + len(reasons) > _LOST * len(items):
                    first = next(iter([*lost.values(), *reasons.values()]))
                    raise DataError(
                        f"{len(lost) + len(reasons)} of {len(items):,} inputs cannot be read, more than {_LOST:.0%}: "
                        f"{first}"
                    )
                lost.update({start + at: reason for at, reason in reasons.items()})
                bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
                if len(bad):
                    raise ModelError(f"the vector of {block[bad[0]]} holds NaN: nothing can be near it; mend the model")
                made[start : start + len(block)] = vectors
                made.flush()
                self.done[name] = start + len(block)
                self._note()
                bar.update(len(block))
        return np.asarray(made)

    def _note(self) -> None:
        lost = {name: list(found.items()) for name, found in self.lost.items()}
        write_json(self.folder / MANIFEST, {"made_by": self.provenance, "done": self.done, "lost": lost})


def _opened(path: Path, shape: tuple[int, int], done: int) -> np.memmap:
    """The file of `shape` on disk, new where nothing of it is done; all its room is taken at once."""
    try:
        made = np.lib.format.open_memmap(
            path, mode="r+" if done else "w+", dtype=None if done else np.float32, shape=None if done else shape
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be used ({error}); remove {path.parent}") from error
    if made.shape != shape or made.dtype != np.float32:
        raise ConfigError(f"{path} is {made.dtype} of shape {made.shape}, not float32 of {shape}; remove {path.parent}")
    if not done:
        _reserve(path)
    return made


def _reserve(path: Path) -> None:
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
                f"cannot write {path}, which takes {size / 1e6:,.1f} MB: {error.strerror}; make room, or give another "
                "--vectors"
            ) from error
