"""The kinds of index, as data: what FAISS is asked to build, and what may be turned when searching it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, did_you_mean
from ..vectors.bebr.form import Form


@dataclass(frozen=True)
class Kind:
    """One kind of index.

    Args:
        about: what it is good for, in a line.
        factory: from the number of rows and dimensions to what `faiss.index_factory` builds; "" for bits, which have
            no factory.
        size: bytes of codes per byte of float32.
        beside: from the number of rows and dimensions to the bytes of what lies beside the codes: lists, links, tables.
        knob: what makes a search slower and better: "nprobe", "efSearch", or nothing.
        settings: its values, from fast to thorough.
        compressed: whether scores are rough, so that the best candidates are scored again by the full vectors.
        on_disk: whether inverted lists are written to a file of their own while they are built.
        learned: whether bits are those of a learned projection, not of the dimensions themselves.
        levels: of bits that codes have, each half as heavy as the one before (`vectors.bebr`); 0 for other kinds.
        slow: whether it takes minutes to train even for few rows, so that it is tried only where no other kind will do.
        tuned: whether its codes were trained together with the queries that ask it (`jpq`): it is made by a run.
        formerly: what older indexes of the kind call it, though another may be called so now.
    """

    about: str
    factory: Callable[[int, int], str]
    size: float
    beside: Callable[[int, int], float] = lambda n, d: 0
    knob: str = ""
    settings: tuple[int, ...] = (0,)
    compressed: bool = False
    on_disk: bool = False
    learned: bool = False
    levels: int = 0
    slow: bool = False
    tuned: bool = False
    formerly: str = ""

    def bytes(self, rows: int, dimension: int) -> float:
        """Return the bytes of an index of so many rows of `dimension` numbers: what is asked before one is built."""
        return self.size * 4 * dimension * rows + self.beside(rows, dimension)

    def form(self, dimension: int) -> Form:
        """Return the form of codes of several levels, whose bits together are those of `size`."""
        return Form(self.levels, max(1, round(self.size * 4 * dimension / self.levels)) * 8)


def lists(rows: int) -> int:
    """Return how many inverted lists so many rows get: 2 sqrt(N), but 39 rows a list, which FAISS trains one on."""
    return max(1, min(round(2 * rows**0.5), rows // 39))


def _lists(of_each: float = 0) -> Callable[[int, int], float]:
    """Return the bytes of inverted lists: their centres, and of each row its number and as much as is given."""
    return lambda n, d: 4 * d * lists(n) + (8 + of_each) * n


def _links(rows: int, dimension: int) -> float:
    return rows * (64 * 4 + 12)  # 64 neighbours, the levels above, and where they begin


def _rotated(rows: int, dimension: int) -> float:
    tables = 4 * dimension**2 + 4 * 256 * dimension  # the rotation, and the centres that codes stand for
    return tables + (_codes(dimension) - dimension / 8) * rows + _lists()(rows, dimension)


def _projected(rows: int, dimension: int) -> float:
    return 4 * dimension * (-(-dimension // 8) * 8)


def _coder(rows: int, dimension: int) -> float:
    form = KINDS["bebr"].form(dimension)
    return 4 * form.coder_numbers(dimension) + (form.bytes - dimension / 8) * rows


def _pieces(rows: int, dimension: int) -> float:
    return 8 * dimension**2 + 3 * 4 * 256 * dimension  # the rotation twice, and three sets of centroids


_PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

KINDS: dict[str, Kind] = {
    "flat": Kind("exact, all in memory", lambda n, d: "Flat", 1),
    "fp16": Kind("nearly exact, half the size", lambda n, d: "SQfp16", 1 / 2),
    "hnsw": Kind(
        "fastest, larger than the vectors", lambda n, d: "HNSW32,Flat", 1, _links, "efSearch",
        (16, 32, 64, 128, 256, 512),
    ),
    "ivf": Kind("fast, full vectors in lists", lambda n, d: f"IVF{lists(n)},Flat", 1, _lists(), "nprobe", _PROBES),
    "ivf-disk": Kind(
        "the same with its lists on disk, built in little memory", lambda n, d: f"IVF{lists(n)},Flat", 1, _lists(),
        "nprobe", _PROBES, on_disk=True,
    ),
    "sq8": Kind(
        "a byte a dimension", lambda n, d: f"IVF{lists(n)},SQ8", 1 / 4, _lists(), "nprobe", _PROBES, compressed=True
    ),
    "rabitq4": Kind(
        "4 bits a dimension (RaBitQ)", lambda n, d: f"IVF{lists(n)},RaBitQ4", 1 / 8, _lists(20), "nprobe", _PROBES,
        compressed=True,
    ),
    "rabitq": Kind(
        "1 bit a dimension (RaBitQ), no training", lambda n, d: f"IVF{lists(n)},RaBitQ", 1 / 32, _lists(8), "nprobe",
        _PROBES, compressed=True,
    ),
    "pq": Kind(
        "a byte for 8 dimensions (OPQ), long training", lambda n, d: f"OPQ{_codes(d)},IVF{lists(n)},PQ{_codes(d)}np",
        1 / 32, _rotated, "nprobe", _PROBES, compressed=True, slow=True,
    ),
    "binary": Kind("the sign of each dimension, all compared", lambda n, d: "", 1 / 32, compressed=True),
    "learned-signs": Kind(
        "signs of a learned projection, where they beat signs", lambda n, d: "", 1 / 32, _projected, compressed=True,
        learned=True, slow=True, formerly="bebr",
    ),
    "bebr": Kind(
        "bits of four learned levels (BEBR), all compared", lambda n, d: "", 1 / 32, _coder, compressed=True, levels=4,
        slow=True,
    ),
    "jpq": Kind(
        "codes and queries tuned together by a run (JPQ), all compared", lambda n, d: "", 1 / 32, _pieces, tuned=True
    ),
}  # fmt: skip
OF_STORES = {name: kind for name, kind in KINDS.items() if not kind.tuned}
"""The kinds that are made of a store alone."""
_FORMERLY = {kind.formerly: name for name, kind in KINDS.items() if kind.formerly}


def kind_of(name: str) -> Kind:
    """Return a kind by its name. Raises ConfigError for a kind there is not."""
    if name not in KINDS:
        raise ConfigError(
            f"there is no kind '{name}' of index; there are {', '.join(KINDS)}{did_you_mean(name, KINDS)}"
        )
    return KINDS[name]


def written_name(settings: Mapping[str, Any]) -> str:
    """Return what the kind of an index with these settings is called now. Raises ConfigError for one there is not.

    What was called `bebr` before it had levels is another kind than what is called so now.
    """
    name = settings["kind"]
    if "levels" not in settings:
        name = _FORMERLY.get(name, name)
    kind_of(name)
    return name


def _codes(dimension: int) -> int:
    """Return the bytes of a vector in product quantisation: one for 8 dimensions, or for fewer that divide them."""
    return next(count for count in range(max(1, dimension // 8), dimension + 1) if dimension % count == 0)
