"""Sets of vectors behind an index of FAISS: their encodings (MUVERA) find candidates, and MaxSim ranks these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError
from ..store.exact import ordered
from ..vectors.fde import FDE
from ..vectors.maxsim import maxsim
from ..vectors.multi import MultiVectors
from .engines import new_engine
from .kinds import kind_of

DEPTH = 10
"""Candidates that MaxSim ranks for each answer, where nothing else is asked."""
_VALUES = 1 << 25  # numbers of encodings at a time: 128 MB
_SAMPLE = 1 << 27  # numbers of those that an index is trained on: 512 MB


class EncodedSets:
    """Documents of several vectors each, as an index of one long vector each.

    Attributes:
        sets: the documents, which stay in memory for MaxSim.
        form: what an encoding is.
        kind: of the index, of `kinds.KINDS`.
    """

    def __init__(self, sets: MultiVectors, form: FDE, kind: str = "flat"):
        """Encode and index documents.

        Args:
            sets: N documents.
            form: what an encoding is; its `dimension` is that of the vectors.
            kind: any that FAISS compares by inner products, in memory: flat, fp16, hnsw, ivf, sq8, rabitq4, rabitq, pq.

        Raises:
            ConfigError: there is no such kind, or it is one of bits or on disk.
            DataError: there is no document, one has no vectors, or they are of another length than the form's.
        """
        self.sets, self.form, self.kind = sets, form, kind_of(kind)
        if not self.kind.factory(1, form.width) or self.kind.on_disk:
            raise ConfigError(f"encodings of sets are compared by inner products in memory, which '{kind}' does not do")
        if not len(sets):
            raise DataError("there is no document: there is nothing to index")
        empty = np.flatnonzero(sets.counts == 0)
        if len(empty):
            raise DataError(f"document {empty[0]} has no vectors ({len(empty)} such): leave it out")
        self.engine = new_engine(self.kind, len(sets), form.width, Path())  # which is never saved
        count = min(len(sets), max(1, _SAMPLE // form.width))
        chosen = np.sort(np.random.default_rng(form.seed).choice(len(sets), count, replace=False))
        self.engine.train(np.concatenate([form.documents(some) for some in self._blocks(chosen)]))
        for some in self._blocks(np.arange(len(sets))):
            self.engine.add(form.documents(some))

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.sets)

    def search(
        self, queries: MultiVectors, k: int, *, depth: int = DEPTH, setting: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best documents for each query by MaxSim, of those that the index finds.

        Args:
            queries: Q queries.
            k: answers a query, at least 1.
            depth: how many times as many candidates MaxSim ranks, at least 1; where that is all of them, the answers
                are exactly those of MaxSim.
            setting: of the kind's knob; the most thorough by default.

        Returns:
            scores [Q, k] float32 of `maxsim`, -inf where there is no answer; documents' numbers [Q, k] int64, -1 there.

        Raises:
            ConfigError: k or depth is below 1.
            DataError: as `maxsim`, for queries.
        """
        if min(k, depth) < 1:
            raise ConfigError(f"k and depth must be at least 1, not {k} and {depth}")
        count = min(k * depth, len(self))
        setting = self.kind.settings[-1] if setting is None else setting
        if count == len(self):
            found = np.broadcast_to(np.arange(count), (len(queries), count))
        else:
            found = self.engine.search(self.form.queries(queries), count, setting)[1]
        scores = np.full((len(queries), max(k, count)), -np.inf, np.float32)
        rows = np.full(scores.shape, -1, np.int64)
        for number, candidates in enumerate(found):
            near = candidates[candidates >= 0]
            rows[number, : len(near)] = near
            scores[number, : len(near)] = maxsim(queries.take([number]), self.sets.take(near))[0]
        return ordered(scores, rows, k)

    def _blocks(self, numbers: np.ndarray) -> Iterator[MultiVectors]:
        """Yield the documents of these numbers [n] int64, so many at a time that their encodings fit in memory."""
        step = max(1, _VALUES // self.form.width)
        return (self.sets.take(numbers[at : at + step]) for at in range(0, len(numbers), step))
