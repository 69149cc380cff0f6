"""FAISS behind one interface: rows in, rough or exact scores out. Row numbers are those of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from ..errors import ConfigError
from ..vectors.learned_bits import bits_of, projection_for
from .faiss_files import read_binary, read_index, read_projection, read_with_lists, write_index, write_lists
from .faiss_train import train_index
from .jpq.engine import INDEX_FILE, Tuned
from .jpq.quantizer import TunedQuantizer
from .kinds import Kind
from .recurrent import Recurrent

LISTS_FILE, PROJECTION_FILE = "lists.ivfdata", "projection.npy"


class Engine(Protocol):
    """An index that is trained, filled, searched and written."""

    def __len__(self) -> int:
        """Return the number of rows that are in it: the first ones of the store."""
        ...

    def train(self, sample: np.ndarray) -> None:
        """Train on some rows [S, D] float32."""
        ...

    def add(self, rows: np.ndarray) -> None:
        """Add the next rows [n, D] float32."""
        ...

    @property
    def most(self) -> int:
        """The setting of the kind's knob beyond which nothing more is found."""
        ...

    @property
    def code_bytes(self) -> int:
        """The bytes of a row's code, without its number, links, and what all rows share."""
        ...

    def search(self, queries: np.ndarray, count: int, setting: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best rows for each query, by scores of which a higher one is better.

        Args:
            queries: [Q, D] float32.
            count: rows a query.
            setting: of the kind's knob.

        Returns:
            scores [Q, count] float32; row numbers [Q, count] int64, -1 where there is none.
        """
        ...

    def save(self) -> None:
        """Write its files to its folder."""
        ...


def new_engine(kind: Kind, rows: int, dimension: int, folder: Path, quantizer: TunedQuantizer | None = None) -> Engine:
    """Return an untrained index for about so many rows of `dimension` numbers, which will write to `folder`.

    `quantizer` is that of a tuned kind, which learns nothing itself. Raises ConfigError where it is missing.
    """
    if kind.tuned:
        if quantizer is None:
            raise ConfigError("codes that are tuned come of a run: give its quantizer")
        return Tuned(folder, quantizer)
    if kind.levels:
        return Recurrent(folder, dimension, kind.form(dimension))
    if not kind.factory(rows, dimension):
        return Bits(folder, dimension, kind.learned)
    index = faiss.index_factory(dimension, kind.factory(rows, dimension), faiss.METRIC_INNER_PRODUCT)
    return ListsOnDisk(folder, kind, index) if kind.on_disk else Floats(folder, kind, index)


def open_engine(kind: Kind, dimension: int, folder: Path, writable: bool) -> Engine:
    """Open what `save` wrote: mapped and not read or, when it is `writable`, in memory to add to."""
    flags = 0 if writable else faiss.IO_FLAG_MMAP_IFC
    if kind.tuned:
        return Tuned.read(folder, dimension, flags)
    if kind.levels:
        return Recurrent.read(folder, dimension, kind.form(dimension), writable)
    if not kind.factory(1, dimension):
        return Bits.read(folder, dimension, kind.learned)
    if kind.on_disk:
        return ListsOnDisk(folder, kind, read_with_lists(folder / INDEX_FILE, folder / LISTS_FILE))
    return Floats(folder, kind, read_index(folder / INDEX_FILE, flags))


class Floats:
    """Any index that FAISS' factory makes."""

    def __init__(self, folder: Path, kind: Kind, index: Any):
        """Wrap a faiss.Index, which will be written to `folder`."""
        self.folder, self.kind, self.index = folder, kind, index

    def __len__(self) -> int:
        """As `Engine.__len__`."""
        return self.index.ntotal

    def train(self, sample: np.ndarray) -> None:
        """As `Engine.train`."""
        train_index(self.index, sample)

    def add(self, rows: np.ndarray) -> None:
        """As `Engine.add`."""
        self.index.add(rows)

    @property
    def most(self) -> int:
        """As `Engine.most`."""
        return faiss.extract_index_ivf(self.index).nlist if self.kind.knob == "nprobe" else len(self)

    @property
    def code_bytes(self) -> int:
        """As `Engine.code_bytes`."""
        whole = faiss.try_extract_index_ivf(self.index) or faiss.downcast_index(self.index)
        codes: int = faiss.downcast_index(getattr(whole, "storage", whole)).code_size  # of a graph, what it links
        return codes

    def search(self, queries: np.ndarray, count: int, setting: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.search`."""
        return self.index.search(queries, count, params=self._parameters(setting))

    def save(self) -> None:
        """As `Engine.save`."""
        write_index(self.index, self.folder / INDEX_FILE)

    def _parameters(self, setting: int) -> Any:
        """Return the faiss.SearchParameters of the kind, None for one that has no knob."""
        if self.kind.knob == "efSearch":
            return faiss.SearchParametersHNSW(efSearch=setting)
        if self.kind.knob != "nprobe":
            return None
        inner = faiss.SearchParametersIVF(nprobe=setting)
        if not isinstance(faiss.downcast_index(self.index), faiss.IndexPreTransform):
            return inner
        outer = faiss.SearchParametersPreTransform(index_params=inner)
        outer.inner = inner  # FAISS keeps a bare pointer to it
        return outer


class ListsOnDisk(Floats):
    """Inverted lists that never lie in memory together: each block of rows becomes an index, and those one file."""

    def __init__(self, folder: Path, kind: Kind, index: Any):
        """Wrap a faiss.IndexIVF, which will be written to `folder`."""
        super().__init__(folder, kind, index)
        self.parts: list[Path] = []
        self.rows: int = index.ntotal

    def __len__(self) -> int:
        """As `Engine.__len__`."""
        return self.rows

    def add(self, rows: np.ndarray) -> None:
        """As `Engine.add`."""
        part = faiss.clone_index(self.index)  # trained, and without rows
        part.add_with_ids(rows, np.arange(self.rows, self.rows + len(rows)))
        self.rows += len(rows)
        self.parts.append(self.folder / f"part-{len(self.parts)}")
        write_index(part, self.parts[-1])

    def save(self) -> None:
        """As `Engine.save`."""
        write_lists(self.index, self.parts, self.folder / LISTS_FILE)
        super().save()
        for part in self.parts:
            part.unlink()
        self.parts = []


class Bits:
    """A bit for each dimension, or for each of a learned projection, all compared by their Hamming distance."""

    def __init__(self, folder: Path, dimension: int, learned: bool):
        """Make an empty index of vectors of `dimension` numbers, which will be written to `folder`."""
        self.folder, self.learned = folder, learned
        self.index: Any = faiss.IndexBinaryFlat(-(-dimension // 8) * 8)  # whole bytes
        self.projection: np.ndarray | None = None

    @classmethod
    def read(cls, folder: Path, dimension: int, learned: bool) -> Bits:
        """Read what `save` wrote."""
        engine = cls(folder, dimension, learned)
        engine.index = read_binary(folder / INDEX_FILE)
        if (folder / PROJECTION_FILE).is_file():
            engine.projection = read_projection(folder / PROJECTION_FILE, (dimension, engine.index.d))
        return engine

    def __len__(self) -> int:
        """As `Engine.__len__`."""
        return self.index.ntotal

    def train(self, sample: np.ndarray) -> None:
        """As `Engine.train`."""
        if self.learned:
            self.projection = projection_for(sample, self.index.d)

    def add(self, rows: np.ndarray) -> None:
        """As `Engine.add`."""
        self.index.add(bits_of(rows, self.projection))

    @property
    def most(self) -> int:
        """As `Engine.most`: there is no knob."""
        return 0

    @property
    def code_bytes(self) -> int:
        """As `Engine.code_bytes`."""
        return self.index.code_size

    def search(self, queries: np.ndarray, count: int, setting: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.search`."""
        distances, rows = self.index.search(bits_of(queries, self.projection), count)
        return (1 - 2 * distances / self.index.d).astype(np.float32), rows

    def save(self) -> None:
        """As `Engine.save`."""
        write_index(self.index, self.folder / INDEX_FILE)
        if self.projection is not None:
            np.save(self.folder / PROJECTION_FILE, self.projection, allow_pickle=False)
