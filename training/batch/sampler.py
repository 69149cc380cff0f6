"""The order of rows: a function of (seed, epoch), so that resuming needs no replay; no Python runs for each row."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from mllm_embed.errors import ConfigError

_BLOCK = 1 << 16  # row numbers that exist as Python's integers at a time


class RowSampler(Sampler[int]):
    """A shuffle of rows in which some are neighbours, and so share a batch and contrast with each other.

    Rows on one reference picture differ only by their instruction: together they are the hard negatives that no
    shortcut through the picture can tell apart. Rows of one cluster are hard for each other by what a teacher found
    (B3, arXiv 2505.11293). Batches from one source have no shortcut through what tells the sources apart (VLM2Vec-V2,
    arXiv 2507.04590).

    The sequence is made from the inside out. Rows of one group of a level are put side by side, cut into chunks of the
    level's size, and the chunks shuffled; the next level does that with rows in the order found. A chunk never holds
    rows of two groups of any level outside its own, nor of two sources; a group's last chunk may be short. Where a
    size does not divide that of the level around it, a chunk may be cut in two.

    Sources then take turns by chance, each as often as it has chunks. With `per_source` above 1 these hold exactly
    that many rows: the stream cut every multiple of `per_source` rows has pieces of one source each, and what fills no
    chunk of its source is left out, other rows every epoch.

    Without `weights` each row comes once. With them an epoch is as long as there are rows, and a source's share is its
    weight over their sum: a smaller one is passed through again, every pass whole and in an order of its own; of a
    larger one other rows come every epoch.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        levels: Sequence[tuple[np.ndarray, int]] = (),
        sources: np.ndarray | None = None,
        per_source: int = 1,
        weights: Sequence[float] | None = None,
    ):
        """Number the groups, once.

        Args:
            count: how many rows there are, N.
            seed: with the epoch it decides the order.
            levels: innermost first, the group [N] int64 of every row (below 0: in none) and the size of a chunk.
            sources: the source [N] int64 of every row, numbered from 0; None for a single one.
            per_source: rows in a chunk of one source; 1 mixes the sources freely.
            weights: one a source, above 0.

        Raises:
            ConfigError: shapes, sizes or weights that do not fit; a source that cannot fill one chunk.
        """
        self.count, self.seed, self.epoch, self.per_source = count, seed, 0, per_source
        self._sources = _column(np.zeros(count, np.int64) if sources is None else sources, count, "sources")
        for name, size in [("per_source", per_source), *((f"level {n}", s) for n, (_, s) in enumerate(levels))]:
            if size < 1:
                raise ConfigError(f"{name}: a chunk has at least 1 row, not {size}")
        self._sizes = np.bincount(self._sources) if count else np.zeros(1, np.int64)
        self._quotas = _quotas(self._sizes, per_source, weights)
        self._turns = -(-self._quotas // np.maximum(self._sizes, 1))
        # numbered from the outermost: a group's number tells the groups around it apart as well, so that one sort by it
        # never brings rows of two outer groups together
        self._levels: list[tuple[np.ndarray, np.ndarray, int]] = []
        around = self._sources
        for groups, size in reversed(levels):
            if size > 1:
                own = _column(groups, count, "groups")
                around = _nested(around, own)
                self._levels.insert(0, (around, own >= 0, size))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return int(self._quotas.sum())

    def __iter__(self) -> Iterator[int]:
        order = self.order()
        for start in range(0, len(order), _BLOCK):
            yield from order[start : start + _BLOCK].tolist()

    def order(self) -> np.ndarray:
        """Return the whole epoch: row numbers, [len(self)] int64."""
        rng = np.random.default_rng([self.seed, self.epoch])
        rows, turn = self._passes()
        drawn = rng.permutation(len(rows))
        rows, turn = rows[drawn], turn[drawn]
        turns = int(self._turns.max(initial=1))
        first = np.ones(len(rows), bool)  # whether a row is the first of its chunk
        for groups, grouped, size in self._levels:
            keys = groups[rows] * turns + turn  # a source that is passed through twice has its groups twice
            near = _stable_argsort(keys)  # stable: chunks of the level within stay whole, in their shuffled order
            rows, turn, keys, first = rows[near], turn[near], keys[near], first[near]
            # rows in no group of this level keep the chunks that they have
            first = np.where(grouped[rows], _rank_among_equals(keys) % size == 0, first)
            near = _shuffled(first, rng)
            rows, turn, first = rows[near], turn[near], first[near]
        near = _stable_argsort(self._sources[rows] * turns + turn)
        rows, first = rows[near], first[near]
        # the passes of a source now lie one after the other, so a quota takes whole passes and a part of the last
        place = _rank_among_equals(self._sources[rows])
        taken = place < self._quotas[self._sources[rows]]
        rows, first = rows[taken], first[taken]
        if self.per_source > 1:
            first = place[taken] % self.per_source == 0
        return rows if len(self._sizes) == 1 else rows[_interleaved(first, self._sources[rows], rng)]

    def _passes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row as often as its source is passed through, [M] int64, and the number of the pass [M]."""
        times = self._turns[self._sources]
        rows = np.repeat(np.arange(self.count), times)
        return rows, np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)


def numbered(values: Iterable[Hashable]) -> np.ndarray:
    """Return a number for each different value, in order of appearance: [N] int64, groups for a level; -1 for None."""
    seen: dict[Hashable, int] = {}
    return np.fromiter((-1 if value is None else seen.setdefault(value, len(seen)) for value in values), np.int64)


def _quotas(sizes: np.ndarray, per_source: int, weights: Sequence[float] | None) -> np.ndarray:
    """Return how many rows of each source [S] int64 an epoch has: whole chunks. Raise ConfigError for none."""
    shares = sizes
    if weights is not None:
        given = np.asarray(weights, float)
        if given.shape != sizes.shape:
            raise ConfigError(f"{len(given)} weights for {len(sizes)} sources: give one for each")
        if not (np.isfinite(given) & (given > 0)).all():
            raise ConfigError(f"the weights of sources are numbers above 0, not {given.tolist()}")
        shares = np.rint(sizes.sum() * given / given.sum()).astype(np.int64)
    quotas = shares // per_source * per_source
    for source in np.flatnonzero((quotas == 0) & (sizes > 0)):
        cures = ["lower per_source"] * (per_source > 1) + ["give it more weight"] * (weights is not None)
        needed = f", too few for one chunk of {per_source}" if per_source > 1 else ""
        raise ConfigError(
            f"source number {source + 1} would give {shares[source]} rows an epoch{needed}; "
            f"{', '.join(cures)} or leave it out"
        )
    for source in np.flatnonzero((sizes == 0) & (quotas > 0)):
        raise ConfigError(f"source number {source + 1} has a weight but no rows; leave it out")
    return quotas


def _column(values: np.ndarray, count: int, name: str) -> np.ndarray:
    column = np.asarray(values)
    if column.shape != (count,) or (count and not np.issubdtype(column.dtype, np.integer)):
        raise ConfigError(f"{name}: {count} rows need [{count}] integers, not {column.dtype} of shape {column.shape}")
    if name == "sources" and count and column.min() < 0:
        raise ConfigError(f"sources are numbered from 0, not {column.min()}")
    return column.astype(np.int64)


def _nested(around: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return a number for each pair of a group and the one around it, [N] int64 below N; rows in none are a group."""
    own = np.unique(own, return_inverse=True)[1]
    pairs = around * (own.max(initial=0) + 1) + own
    return np.unique(pairs, return_inverse=True)[1]


def _stable_argsort(keys: np.ndarray) -> np.ndarray:
    """Return `np.argsort(keys, kind="stable")`, for small numbers at the speed of np.sort."""
    count = max(1, len(keys))
    if int(keys.max(initial=0)) > np.iinfo(np.int64).max // count - 1:  # a few rows that come a million times
        return np.argsort(keys, kind="stable")
    return np.sort(keys * count + np.arange(len(keys))) % count


def _rank_among_equals(keys: np.ndarray) -> np.ndarray:
    """Return, for sorted keys [M], how many equal ones stand before each: [M] int64."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))


def _shuffled(first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the positions [M] of rows after their chunks, of which `first` [M] marks the first rows, are shuffled."""
    starts = np.flatnonzero(first)
    return _positions(starts, np.diff(starts, append=len(first)), rng.permutation(len(starts)))


def _interleaved(first: np.ndarray, sources: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the same after sources [M], sorted, took turns by chance; each source's chunks keep their order."""
    starts = np.flatnonzero(first)
    chunks = np.empty(len(starts), np.int64)
    chunks[_stable_argsort(rng.permutation(sources[starts]))] = np.arange(len(starts))
    return _positions(starts, np.diff(starts, append=len(first)), chunks)


def _positions(starts: np.ndarray, lengths: np.ndarray, chunks: np.ndarray) -> np.ndarray:
    """Return the positions of the rows of chunks, chunk after chunk in the order given."""
    lengths, starts = lengths[chunks], starts[chunks]
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
