"""The order of streamed rows: a function of (seed, epoch), near the order on disk, so that nothing is read twice.

An epoch of one process is a list of batches. Batch b comes from lane b % 8; each lane goes through its own part of
every source's shuffled blocks (row groups, runs of a tar file), a few blocks at a time, whose rows are shuffled
together. A DataLoader hands batch b to worker b % workers: with 1, 2, 4 or 8 workers hardly a block is read by two of
them, and with any number the rows come in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LANES = 8
WINDOW_ROWS = 2048  # rows that are shuffled together
WINDOW_BLOCKS = 8  # blocks that they come from at most, each of which a worker holds in memory


def stream_order(
    blocks: Sequence[np.ndarray],
    lengths: Sequence[int],
    weights: Sequence[float | None],
    batch_size: int,
    seed: int,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
) -> np.ndarray:
    """Return the rows that process `rank` of `world` reads in an epoch, [batches * batch_size] int64.

    Every process gets equally many. Without weights no row comes twice, and fewer than world * batch_size rows of all
    and `world` rows of each source are left out of an epoch, other ones each time.

    Args:
        blocks: for each source [K] int64, the first row of each block, counted within the source.
        lengths: the rows of each source.
        weights: its share in the rows of an epoch, None for its own size; the epoch is as long as all rows together,
            so a source that gets more than its size comes more than once.
        batch_size: rows of one process in a step.
        seed: of the run.
        epoch: from 0.
        rank: this process.
        world: how many processes there are.
    """
    shares = [count // world for count in quotas(lengths, weights)]
    # which source each row of the epoch is from; the rows themselves are filled in below, source by source
    labels = np.repeat(np.arange(len(shares), dtype=np.int16), shares)
    np.random.default_rng((seed, epoch, rank)).shuffle(labels)
    labels = labels[: len(labels) // batch_size * batch_size]
    lane = np.arange(len(labels)) // batch_size % LANES
    order = np.empty(len(labels), dtype=np.int64)
    # The blocks of a source are shuffled by a seed without the rank: every process lays them out alike, and takes its
    # own stretch of them, so that no row comes to two.
    first = 0
    for source, (starts, length, share) in enumerate(zip(blocks, lengths, shares, strict=True)):
        runs = _shuffled_blocks(starts, length, share * world, (seed, epoch, source))
        begin = rank * share
        for number in range(LANES):
            places = np.flatnonzero((labels == source) & (lane == number))
            rng = np.random.default_rng((seed, epoch, source, rank, number))
            order[places] = first + _windows(*_cut(*runs, begin, begin + len(places)), rng)
            begin += len(places)
        first += length
    return order


def shares(lengths: Sequence[int], weights: Sequence[float | None]) -> list[float]:
    """Return what each source weighs beside the others: one without a weight as much as its part of all rows."""
    total = sum(lengths)
    return [length / total if weight is None else weight for length, weight in zip(lengths, weights, strict=True)]


def quotas(lengths: Sequence[int], weights: Sequence[float | None]) -> list[int]:
    """Return how many rows of each source an epoch has: all together as many as there are rows."""
    if all(weight is None for weight in weights):
        return list(lengths)
    given = shares(lengths, weights)
    return [int(sum(lengths) * weight / sum(given)) for weight in given]


def _shuffled_blocks(
    starts: np.ndarray, length: int, count: int, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return first rows and lengths of blocks [K] int64 in a random order, again where `count` exceeds a round."""
    rng = np.random.default_rng(seed)
    sizes = np.diff(np.append(starts, length))
    rounds = [rng.permutation(len(starts)) for _ in range(-(-count // max(length, 1)))]
    picked = np.concatenate([*rounds, np.empty(0, dtype=np.int64)]).astype(np.int64)
    return starts[picked], sizes[picked]


def _cut(starts: np.ndarray, sizes: np.ndarray, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks of rows begin to end of those laid end to end; the outer ones may be parts of blocks."""
    stops = np.cumsum(sizes)
    first, last = np.searchsorted(stops, begin, side="right"), np.searchsorted(stops, end, side="left")
    if begin >= end:
        return starts[:0], sizes[:0]
    left = np.maximum(begin - (stops - sizes), 0)[first : last + 1]
    right = np.maximum(stops - end, 0)[first : last + 1]
    return starts[first : last + 1] + left, sizes[first : last + 1] - left - right


def _windows(starts: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of the blocks, shuffled among up to WINDOW_BLOCKS neighbours of about WINDOW_ROWS rows."""
    rows: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    window: list[np.ndarray] = []
    held = 0
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        window.append(np.arange(start, start + size))
        held += size
        if held >= WINDOW_ROWS or len(window) == WINDOW_BLOCKS:
            rows.append(rng.permutation(np.concatenate(window)))
            window, held = [], 0
    if window:
        rows.append(rng.permutation(np.concatenate(window)))
    return np.concatenate(rows)
