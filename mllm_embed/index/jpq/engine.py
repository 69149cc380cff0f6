"""An index of tuned product codes, all compared, by the scores with which its queries were trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ...errors import DataError
from ...store.exact import Rows
from ...store.vector_store import BLOCK_ROWS, VectorStore
from ...vectors.matrix import Matrix
from ..faiss_files import read_index, write_index
from ..files import REBUILD
from .quantizer import QUANTIZER_FILE, TunedQuantizer

INDEX_FILE = "index.faiss"


class Tuned:
    """FAISS's product codes with tuned centroids, an `Engine`; it has no knob, and learns nothing of a store.

    The file of FAISS holds the rotation, the codes and the centroids that are scored, so that FAISS alone can search
    it; what codes a new row lies beside it.
    """

    def __init__(self, folder: Path, quantizer: TunedQuantizer):
        """Make an empty index, which will be written to `folder`."""
        self.folder, self.quantizer = folder, quantizer
        turn = faiss.LinearTransform(quantizer.dimension, quantizer.dimension, False)
        faiss.copy_array_to_vector(np.ascontiguousarray(quantizer.rotation).ravel(), turn.A)
        turn.is_trained = True
        turn.set_is_orthonormal()
        codes = faiss.IndexPQ(quantizer.dimension, quantizer.bytes, 8, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(np.ascontiguousarray(quantizer.scored).ravel(), codes.pq.centroids)
        codes.is_trained = True
        self.index: Any = faiss.IndexPreTransform(turn, codes)

    @classmethod
    def read(cls, folder: Path, dimension: int, flags: int) -> Tuned:
        """Read what `save` wrote, by FAISS's flags. Raises DataError for damage, and for other vectors' codes."""
        quantizer = TunedQuantizer.read(folder / QUANTIZER_FILE, REBUILD)
        engine = cls(folder, quantizer)
        index = read_index(folder / INDEX_FILE, flags)
        if not quantizer.dimension == index.d == dimension:
            raise DataError(f"{folder} has codes of {index.d} numbers, not of {dimension}: {REBUILD}")
        engine.index = index
        return engine

    def __len__(self) -> int:
        """As `Engine.__len__`."""
        return self.index.ntotal

    def train(self, sample: np.ndarray) -> None:
        """As `Engine.train`: all of it was learned before."""

    def add(self, rows: np.ndarray) -> None:
        """As `Engine.add`."""
        codes = faiss.downcast_index(self.index.index)
        codes.add_sa_codes(self.quantizer.codes(rows))
        self.index.ntotal = codes.ntotal

    @property
    def most(self) -> int:
        """As `Engine.most`: there is no knob."""
        return 0

    @property
    def code_bytes(self) -> int:
        """As `Engine.code_bytes`."""
        return self.quantizer.bytes

    def search(self, queries: np.ndarray, count: int, setting: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.search`."""
        return self.index.search(np.ascontiguousarray(queries, np.float32), count)

    def save(self) -> None:
        """As `Engine.save`."""
        write_index(self.index, self.folder / INDEX_FILE)
        self.quantizer.save(self.folder / QUANTIZER_FILE)

    def rows(self, store: VectorStore) -> Rows:
        """Return the rows of a store as codes tell them, those too that are not in the index yet."""
        return _DecodedRows(store, self)


class _DecodedRows:
    """Rows [D] float32 as their codes tell them: what a search that compares rows itself must score, too."""

    def __init__(self, store: VectorStore, engine: Tuned):
        self.store, self.engine = store, engine

    def __len__(self) -> int:
        """As `Rows.__len__`."""
        return len(self.store)

    def blocks(self) -> Iterator[tuple[int, Matrix]]:
        """As `Rows.blocks`."""
        for first in range(0, len(self), BLOCK_ROWS):
            yield first, self.take(np.arange(first, min(first + BLOCK_ROWS, len(self))))

    def take(self, numbers: np.ndarray) -> Matrix:
        """As `Rows.take`."""
        inside = numbers < len(self.engine)
        rows = np.empty((len(numbers), self.engine.quantizer.dimension), np.float32)
        rows[inside] = self.engine.index.reconstruct_batch(numbers[inside])
        quantizer = self.engine.quantizer
        rows[~inside] = quantizer.decoded(quantizer.codes(self.store.take(numbers[~inside])))
        return Matrix.of(rows, "index")
