"""Targets: what an index must be, in a line, "recall>=0.97,size<=1/16" say, and the choice of a kind that is so."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..store.vector_store import BLOCK_ROWS, VectorStore
from .build import RECALL, build_index, exact_ms, probe
from .faiss_index import Index
from .kinds import OF_STORES

_EXAMPLE = 'give "recall>=0.97,size<=1/16" say'
_TERM = re.compile(r"\s*(recall|size|latency)\s*(>=|<=)\s*([0-9.]+(?:/[0-9.]+)?)\s*(ms)?\s*")
_COSTED = 5  # queries that an exact search is timed with
_SAMPLE = 100_000  # rows on which all kinds are tried, before one is built of all
ENOUGH = 100_000
"""Rows up to which an exact search takes milliseconds, so that no index is needed."""


@dataclass(frozen=True)
class Target:
    """Bounds that an index must keep.

    Args:
        recall: recall@10 at least.
        size: bytes per byte of the float32 vectors, at most.
        latency: milliseconds for one query, at most.
    """

    recall: float = RECALL
    size: float | None = None
    latency: float | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read "recall>=0.97,size<=1/16,latency<=5ms", or some of it. Raises ConfigError for anything else."""
        values: dict[str, float] = {}
        for term in text.split(","):
            name, value = _bound(term)
            if name in values:
                raise ConfigError(f"--target names {name} twice; {_EXAMPLE}")
            values[name] = value
        if not 0 < values.get("recall", 1) <= 1:
            raise ConfigError(f"--target: recall is between 0 and 1, not {values['recall']:g}")
        return cls(**values)

    def missed(self, card: dict[str, Any]) -> Iterator[str]:
        """Yield where an index with this card falls short, and by how much, in words."""
        if card["recall"] < self.recall:
            yield f"recall {card['recall']:.3f} < {self.recall:g}"
        if self.size is not None and card["ratio"] > self.size:
            yield f"size {card['ratio']:.3f} > {self.size:.3f}"
        if self.latency is not None and card["one_ms"] > self.latency:
            yield f"latency {card['one_ms']:.2f} ms > {self.latency:g}"


def build_for(
    store: VectorStore,
    folder: str | os.PathLike[str],
    target: Target,
    *,
    queries: np.ndarray | None = None,
    seed: int = 0,
    say: Callable[[str], object] = lambda line: None,
    show_progress: bool | None = None,
) -> Index:
    """Try the kinds that may fit on a part of the store, and build of all of it the fastest that meets the target.

    What an exact search takes is said first. Kinds that take long to train are tried where no other meets the target.

    Args:
        store: the vectors.
        folder: where to write.
        target: what the index must be.
        queries, seed: as of `build_index`.
        say: called with a line for each kind that is tried.
        show_progress: None shows a bar on a terminal.

    Raises:
        ConfigError: no kind meets the target; it names the one that came nearest. Nothing is written then.
    """
    say(exact_cost(store))
    # of a part of the rows the tables are a larger share: what fits of the whole was reckoned beforehand
    bounds = target if len(store) <= _SAMPLE else replace(target, size=None)
    tried = _tried(store, folder, target, bounds, queries, seed, say)
    good = [(card["one_ms"], name) for name, card in tried if not any(bounds.missed(card))]
    for _, name in sorted(good):
        index = build_index(
            store, folder, name, recall=target.recall, queries=queries, seed=seed, show_progress=show_progress
        )
        missed = list(target.missed(index.card))
        if not missed:
            return index
        say(_line(f"{name} of all {len(store):,} rows", index.card, missed))
        tried.append((name, index.card))
    name, card = min(tried, key=lambda pair: (len(list(target.missed(pair[1]))), -pair[1]["recall"]))
    raise ConfigError(f"no kind of index meets the target; '{name}' comes nearest: {', '.join(target.missed(card))}")


def _tried(
    store: VectorStore,
    folder: str | os.PathLike[str],
    target: Target,
    bounds: Target,
    queries: np.ndarray | None,
    seed: int,
    say: Callable[[str], object],
) -> list[tuple[str, dict[str, Any]]]:
    """Build each kind that may fit of a part of the store, and return the kinds with their cards."""
    small = {name: kind.bytes(len(store), store.dimension) for name, kind in OF_STORES.items()}
    whole = 4 * store.dimension * len(store)
    fit = [name for name, size in small.items() if target.size is None or size <= target.size * whole]
    if not fit:
        name = min(small, key=lambda name: small[name])
        raise ConfigError(
            f"--target: no kind of index is that small; the smallest takes 1/{whole / small[name]:.0f} ('{name}')"
        )
    tried: list[tuple[str, dict[str, Any]]] = []
    with TemporaryDirectory(prefix=".index-", dir=_home(folder)) as scratch:
        part = _part(store, Path(scratch) / "part", seed)
        known = probe(part, queries, seed)
        for name in sorted(fit, key=lambda name: OF_STORES[name].slow):
            if OF_STORES[name].slow and not all(any(bounds.missed(card)) for _, card in tried):
                break
            place = Path(scratch) / name
            card = build_index(part, place, name, recall=target.recall, known=known, show_progress=False).card
            tried.append((name, card))
            say(_line(name, card, list(bounds.missed(card))))
    return tried


def exact_cost(store: VectorStore) -> str:
    """Return a line on what an exact search of the store takes, and whether an index is needed at all.

    Raises:
        DataError: no row is left in the store.
    """
    alive = np.flatnonzero(store.alive)
    if not len(alive):
        raise DataError(f"{store.folder} holds no vectors: there is nothing to index")
    spent = exact_ms(store, store.take(alive[:_COSTED]))
    few = ": so few need no index" if len(alive) <= ENOUGH else ""
    return f"an exact search of the {len(alive):,} vectors takes {spent:.2f} ms a query{few}"


def _bound(term: str) -> tuple[str, float]:
    """Read one bound, "recall>=0.97" say, as its name and value. Raises ConfigError for anything else."""
    found = _TERM.fullmatch(term)
    if not found:
        raise ConfigError(f"--target: '{term.strip()}' is no bound on recall, size or latency; {_EXAMPLE}")
    name, sign, value, unit = found.groups()
    if (sign == ">=") != (name == "recall") or (unit and name != "latency"):
        raise ConfigError(f"--target: '{term.strip()}' bounds {name} the wrong way, or in no unit; {_EXAMPLE}")
    try:
        return name, float(Fraction(value)) if "/" in value else float(value)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"--target: '{value}' is no number; {_EXAMPLE}") from error


def _part(store: VectorStore, folder: Path, seed: int) -> VectorStore:
    """Return the store or, where it is large, a store of some of its rows."""
    if len(store) <= _SAMPLE:
        return store
    rows = np.sort(np.random.default_rng(seed).choice(np.flatnonzero(store.alive), _SAMPLE, replace=False))
    part = VectorStore.create(folder, store.dimension, dtype=store.dtype.name, provenance=store.provenance)
    for at in range(0, len(rows), BLOCK_ROWS):
        some = rows[at : at + BLOCK_ROWS]
        part.add([str(row) for row in some], store.take(some))
    return part


def _home(folder: str | os.PathLike[str]) -> Path:
    """Return the folder that an index will lie in, made where it is missing."""
    home = Path(os.path.abspath(folder)).parent
    home.mkdir(parents=True, exist_ok=True)
    return home


def _line(name: str, card: dict[str, Any], missed: list[str]) -> str:
    """Return a line on a kind that was tried."""
    return (
        f"{name:13} recall {card['recall']:.4f}  size {card['ratio']:.3f}  one query {card['one_ms']:.2f} ms  "
        f"built in {card['build_seconds']:.1f} s  {'misses ' + ', '.join(missed) if missed else 'fits'}"
    )
