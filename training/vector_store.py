"""Vectors that are being made, on disk: work that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.files import read_json, write_json
from mllm_embed.types import Item

MANIFEST = "vectors.json"
_BLOCK = 2048  # items that a stop can cost


class Encoder(Protocol):
    """What is needed of `MLLMEmbedder` here."""

    dimension: int

    def encode(self, inputs: Sequence[Item], *, batch_size: int = 32, show_progress: bool | None = None) -> np.ndarray:
        """[N, D] float32."""
        ...


class VectorStore:
    """A folder with NAME.npy for each list of items, and vectors.json: what made them, and how many are done."""

    def __init__(self, folder: Path, made_by: Mapping[str, Any]):
        """Open or make `folder`; `made_by` is plain JSON that tells these vectors from any others.

        Raises ConfigError for a folder that holds vectors of another model or of other items, or something else.
        """
        self.folder, self.made_by = folder, dict(made_by)
        self.done: dict[str, int] = {}
        if folder.is_dir() and (folder / MANIFEST).is_file():
            told = read_json(folder / MANIFEST, f"remove {folder}")
            if not isinstance(told, dict) or told.get("made_by") != self.made_by or "done" not in told:
                raise ConfigError(
                    f"{folder} holds vectors of another model or of other data; remove it, or give another --vectors"
                )
            self.done = told["done"]
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} holds something else than vectors; give another --vectors")

    def encode(
        self, name: str, items: Sequence[Item], encoder: Encoder, batch_size: int = 32, progress: bool | None = None
    ) -> np.ndarray:
        """[N, D] float32 of `items`, read from disk (as a memory map) where they have been made before.

        Raises ModelError for a vector with NaN, and what `encoder.encode` raises; what was done until then stays.
        """
        path, shape = self.folder / f"{name}.npy", (len(items), encoder.dimension)
        done = self.done.get(name, 0) if path.is_file() else 0
        if done < len(items):
            self.folder.mkdir(parents=True, exist_ok=True)
        made = _opened(path, shape, done)
        hide = None if progress is None else not progress
        with tqdm(total=len(items), initial=done, desc=f"embedding {name}", disable=hide, mininterval=1) as bar:
            for start in range(done, len(items), _BLOCK):
                block = items[start : start + _BLOCK]
                vectors = encoder.encode(block, batch_size=batch_size, show_progress=False)
                bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
                if len(bad):
                    raise ModelError(f"the vector of {block[bad[0]]} holds NaN: nothing can be near it; mend the model")
                made[start : start + len(block)] = vectors
                made.flush()
                self.done[name] = start + len(block)
                write_json(self.folder / MANIFEST, {"made_by": self.made_by, "done": self.done})
                bar.update(len(block))
        return np.asarray(made)


def _opened(path: Path, shape: tuple[int, int], done: int) -> np.memmap:
    """The file of `shape` on disk, new where nothing of it is done."""
    try:
        made = np.lib.format.open_memmap(
            path, mode="r+" if done else "w+", dtype=None if done else np.float32, shape=None if done else shape
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be used ({error}); remove {path.parent}") from error
    if made.shape != shape or made.dtype != np.float32:
        raise ConfigError(f"{path} is {made.dtype} of shape {made.shape}, not float32 of {shape}; remove {path.parent}")
    return made
