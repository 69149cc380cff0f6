"""Filling an index with the rows of a store, block by block."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from ..store.vector_store import BLOCK_ROWS, VectorStore
from .engines import Engine
from .kinds import lists

_SAMPLE_VALUES = 1 << 27  # numbers of the sample that an index is trained on: 512 MiB
_A_LIST = 50  # rows of it for each inverted list


def fill(store: VectorStore, engine: Engine, seed: int, show: bool | None) -> None:
    """Train an empty index on a sample of the rows, add them all, and save it."""
    hide = None if show is None else not show
    with tqdm(total=len(store), desc="training the index", unit="row", disable=hide, mininterval=1) as bar:
        engine.train(_sample(store, seed))
        bar.set_description("building the index")
        for _, rows in store.blocks(BLOCK_ROWS):
            engine.add(np.ascontiguousarray(rows))
            bar.update(len(rows))
        engine.save()


def _sample(store: VectorStore, seed: int) -> np.ndarray:
    """Return rows to train on [S, D] float32, as many as fit in memory and are of use."""
    count = min(len(store), _SAMPLE_VALUES // store.dimension, max(_A_LIST * lists(len(store)), 1 << 15))
    chosen = np.random.default_rng(seed).choice(len(store), count, replace=False)
    return store.take(np.sort(chosen))
