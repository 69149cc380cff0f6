"""Forms of one vector a picture: numbers of fewer bits or fewer of them, and the codes of an index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mllm_embed.index.engines import new_engine, open_engine
from mllm_embed.index.jpq.engine import Tuned
from mllm_embed.index.jpq.quantizer import QUANTIZER_FILE, TunedQuantizer
from mllm_embed.index.kinds import KINDS, Kind, kind_of, lists
from mllm_embed.store.exact import MemoryRows, exact, ordered
from mllm_embed.vectors.matrix import Matrix
from mllm_embed.vectors.precision import to_precision, truncate
from mllm_embed.vectors.unit import unit

from .built import Built, Untrained

BYTES = {"float32": 4, "float16": 2, "int8": 1}


def kept(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Return vectors [N, D] float32 as they come back from a store of a number format: at unit length."""
    stored = to_precision(vectors, "int8") if dtype == "int8" else vectors.astype(dtype)
    return vectors if dtype == "float32" else unit(stored.astype(np.float32))


@dataclass(frozen=True)
class Numbers(Untrained):
    """Vectors as a store keeps them, all compared: of a number format, perhaps cut to their first `dim` numbers."""

    dtype: str
    dim: int | None = None

    def build(self, gallery: np.ndarray, folder: Path) -> Built:
        """As `Form.build`."""
        cut = truncate(gallery, self.dim)
        rows = MemoryRows(Matrix.of(kept(cut, self.dtype), "gallery"))
        return Built(
            BYTES[self.dtype] * cut.shape[1], 0, lambda queries, k: exact(rows, truncate(queries, self.dim), k)[1]
        )


def _product(codes: int, rotated: bool) -> Kind:
    """Return product quantisation in so many bytes, perhaps behind a rotation that is learned (OPQ)."""
    ahead = f"OPQ{codes}," if rotated else ""
    return replace(KINDS["pq"], factory=lambda n, d: f"{ahead}IVF{lists(n)},PQ{codes}np")


MORE = {
    **{f"bebr 1/{part}": replace(KINDS["bebr"], size=1 / part) for part in (8, 16, 64, 128)},
    **{f"opq {codes}": _product(codes, True) for codes in (16, 64)},
    **{f"pq {codes}": _product(codes, False) for codes in (16, 32, 64)},
}
"""Kinds of other sizes than those that `mllm-embed index` has."""


@dataclass(frozen=True)
class Codes:
    """The codes of a kind of index by themselves, all of them looked at, and none scored again by full vectors.

    Args:
        kind: of `KINDS`, or of `MORE`.
        dim: as of `Numbers`.
    """

    kind: str
    dim: int | None = None
    learns = True

    @property
    def _kind(self) -> Kind:
        return MORE.get(self.kind) or kind_of(self.kind)

    def train(self, pictures: np.ndarray, folder: Path, rows: int) -> None:
        """As `Form.train`."""
        sample = truncate(pictures, self.dim)
        engine = new_engine(self._kind, rows, sample.shape[1], folder)
        engine.train(sample)
        engine.save()

    def build(self, gallery: np.ndarray, folder: Path) -> Built:
        """As `Form.build`."""
        rows = truncate(gallery, self.dim)
        engine = open_engine(self._kind, rows.shape[1], folder, True)
        engine.add(rows)

        def search(queries: np.ndarray, count: int) -> np.ndarray:
            return ordered(*engine.search(truncate(queries, self.dim), count, engine.most), count)[1]

        shared = sum(path.stat().st_size for path in folder.iterdir())
        return Built(engine.code_bytes, shared, search)


@dataclass(frozen=True)
class TunedCodes(Untrained):
    """Product codes that were tuned with queries (JPQ), by the centroids that lie beside their adapter.

    Args:
        adapter: its folder.
    """

    adapter: Path

    def build(self, gallery: np.ndarray, folder: Path) -> Built:
        """As `Form.build`."""
        engine = Tuned(folder, TunedQuantizer.read(self.adapter / QUANTIZER_FILE, "give an adapter tuned with codes"))
        engine.add(gallery)

        def search(queries: np.ndarray, count: int) -> np.ndarray:
            return ordered(*engine.search(queries, count, engine.most), count)[1]

        both = engine.quantizer
        shared = both.rotation.nbytes + both.coded.nbytes + both.scored.nbytes
        return Built(engine.code_bytes, shared, search)
