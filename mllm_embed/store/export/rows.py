"""The living rows of a store as Arrow batches, a block at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from tqdm import tqdm

from ...errors import DataError
from ..vector_store import VectorStore

PROVENANCE = "mllm_embed"
"""The key of a file's metadata under which it says, as JSON, what made its vectors."""
OWN = ("id", "vector", "source")
_BLOCK_NUMBERS = 1 << 23  # of vectors that are in memory at once: 32 MiB


class LivingRows:
    """The rows of a store that are alive, in their order."""

    def __init__(self, store: VectorStore, show_progress: bool | None = None):
        """Take a store; None shows a bar on a terminal while blocks are read."""
        self.store = store
        self.numbers = np.flatnonzero(store.alive)
        self._hide = None if show_progress is None else not show_progress

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def ids(self) -> list[str]:
        """The id of each row."""
        return [self.store.ids[row] for row in self.numbers.tolist()]

    def about(self) -> dict[str, Any]:
        """Return what made the vectors, as plain JSON."""
        return {
            "rows": len(self),
            "dimension": self.store.dimension,
            "stored as": str(self.store.dtype),
            "made_by": self.store.provenance,
        }

    @cached_property
    def kept(self) -> Any:
        """The kept columns [N] of the rows, a `pyarrow.Table`; without any where the store keeps none.

        One that is called as one of OWN is "kept_" and its name. Raises DataError where two would be called alike.
        """
        import pyarrow

        columns = self.store.columns
        if columns is None:
            return pyarrow.table({})
        table = columns.table.take(pyarrow.array(self.numbers))
        names = [f"kept_{name}" if name in OWN else name for name in table.column_names]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f'{self.store.folder} keeps two columns that would both be "{twice}": keep one of them')
        return table.rename_columns(names)

    @cached_property
    def schema(self) -> Any:
        """The `pyarrow.Schema` of the batches, with `about` in its metadata."""
        import pyarrow

        own = [
            pyarrow.field("id", pyarrow.string(), nullable=False),
            pyarrow.field("vector", pyarrow.list_(pyarrow.float32(), self.store.dimension), nullable=False),
            pyarrow.field("source", pyarrow.string()),
        ]
        return pyarrow.schema([*own, *self.kept.schema], metadata={PROVENANCE: json.dumps(self.about())})

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield which rows come next, and their vectors [n, D] float32 of unit length."""
        step = max(1, _BLOCK_NUMBERS // self.store.dimension)
        with tqdm(total=len(self), desc="exporting", unit="row", disable=self._hide, mininterval=1) as bar:
            for start in range(0, len(self), step):
                part = slice(start, min(start + step, len(self)))
                yield part, self.store.take(self.numbers[part])
                bar.update(part.stop - part.start)

    def batches(self) -> Iterator[Any]:
        """Yield the rows as `pyarrow.RecordBatch`es of `schema`."""
        import pyarrow

        ids, sources = self.store.ids, self.store.sources
        for part, vectors in self.blocks():
            rows = self.numbers[part].tolist()
            flat = pyarrow.array(vectors.ravel())
            own = [
                pyarrow.array([ids[row] for row in rows], pyarrow.string()),
                pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
                pyarrow.array([sources[row] for row in rows], pyarrow.string()),
            ]
            kept = [column.combine_chunks() for column in self.kept[part].columns]
            yield pyarrow.RecordBatch.from_arrays([*own, *kept], schema=self.schema)
