"""The order of rows: each once, neighbours together, sources apart, the same for one seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest

from mllm_embed.errors import ConfigError
from mllm_embed.training.batch.sampler import RowSampler, numbered


def made(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures with 1 to 9 rows, clusters of pictures with some rows in none, three sources of very unlike size."""
    rng = np.random.default_rng(7)
    pictures = np.repeat(np.arange(count), rng.integers(1, 10, count))[:count]
    sources = np.array([0] * 7 + [1] * 2 + [2])[pictures % 10]
    clusters = np.where(pictures % 5 == 4, -1, pictures % 60)
    shuffle = rng.permutation(count)
    return pictures[shuffle], clusters[shuffle], sources[shuffle]


def runs(values: np.ndarray) -> list[int]:
    """Lengths of the stretches of equal values."""
    ends = np.flatnonzero(np.append(np.diff(values) != 0, True))
    return np.diff(ends, prepend=-1).tolist()


def test_each_row_once_in_an_order_of_seed_and_epoch() -> None:
    pictures, clusters, sources = made()
    for options in (
        {},
        {"levels": [(pictures, 4)]},
        {"levels": [(pictures, 4), (clusters, 16)]},
        {"sources": sources, "levels": [(pictures, 4), (clusters, 16)]},
    ):
        orders = {}
        for seed in (0, 1):
            for epoch in (0, 1):
                sampler = RowSampler(4000, seed, **options)
                sampler.set_epoch(epoch)
                orders[seed, epoch] = list(sampler)
                assert sorted(orders[seed, epoch]) == list(range(4000)) and len(sampler) == 4000
                assert list(sampler) == orders[seed, epoch]
        assert len({tuple(order) for order in orders.values()}) == 4


def test_one_level_is_the_obvious_cut_of_each_group() -> None:
    """The slow twin's claim: however chunks are shuffled, each group falls into chunks of 4 and a rest."""
    pictures, _, _ = made()
    found = pictures[list(RowSampler(4000, 0, levels=[(pictures, 4)]))]
    wanted = 0
    for picture in np.unique(pictures):
        wanted += -(-int((pictures == picture).sum()) // 4)
    # a chunk may be next to another of its picture by chance, so that a stretch is longer than 4 but chunks fewer never
    assert wanted * 0.98 <= len(runs(found)) <= wanted
    assert len(runs(pictures[list(RowSampler(4000, 0, levels=[(pictures, 1)]))])) > 3900


def test_chunks_of_pictures_lie_inside_chunks_of_clusters() -> None:
    pictures, clusters, _ = made()
    order = list(RowSampler(4000, 3, levels=[(pictures, 4), (clusters, 16)]))
    chunks = [run for run, first in zip(runs(clusters[order]), _firsts(clusters[order]), strict=True) if first >= 0]
    rows = {cluster: int((clusters == cluster).sum()) for cluster in np.unique(clusters) if cluster >= 0}
    wanted = sum(-(-count // 16) for count in rows.values())
    assert wanted * 0.9 <= len(chunks) <= wanted
    loose = pictures[order][clusters[order] < 0]  # rows in no cluster still share their picture's chunk
    assert len(runs(loose)) < len(set(loose)) * 2


def _firsts(values: np.ndarray) -> np.ndarray:
    return values[np.append(True, np.diff(values) != 0)]


@pytest.mark.parametrize("weights", [None, [1, 1, 2]])
def test_batches_of_one_source_are_of_one_source(weights: list[float] | None) -> None:
    pictures, _, sources = made()
    sampler = RowSampler(4000, 0, levels=[(pictures, 4)], sources=sources, per_source=32, weights=weights)
    left_out = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = np.array(list(sampler))
        assert len(order) == len(sampler) and len(order) % 32 == 0
        batches = sources[order].reshape(-1, 32)
        assert (batches == batches[:, :1]).all()
        assert len(runs(batches[:, 0])) > 20  # the sources take turns
        left_out.append(set(range(4000)) - set(order.tolist()))
    if weights is None:
        assert len(set(order.tolist())) == len(order) and len(order) > 4000 - 3 * 32
        assert left_out[0] != left_out[1] and left_out[0]


def test_weights_are_shares_of_an_epoch() -> None:
    pictures, _, sources = made()
    sizes = np.bincount(sources)
    order = np.array(list(RowSampler(4000, 0, levels=[(pictures, 4)], sources=sources, weights=[1, 1, 2])))
    assert np.bincount(sources[order]).tolist() == [1000, 1000, 2000]
    times = np.bincount(order, minlength=4000)
    assert times[sources == 0].max() == 1  # a subset of the largest
    for source, share in ((1, 1000), (2, 2000)):
        assert set(times[sources == source].tolist()) <= {share // sizes[source], share // sizes[source] + 1}
    # whole passes: of the smallest source no row comes again before all have come
    small = order[sources[order] == 2]
    for start in range(0, len(small) - sizes[2], sizes[2]):
        assert len(set(small[start : start + sizes[2]].tolist())) == sizes[2]
    # and a chunk of a picture still holds rows of that picture, whole where a subset is taken
    large = pictures[order[sources[order] == 0]]
    assert len(runs(large)) < 0.75 * len(large)


def test_weights_as_the_sizes_change_nothing_but_the_order() -> None:
    _, _, sources = made()
    order = list(RowSampler(4000, 0, sources=sources, weights=np.bincount(sources).tolist()))
    assert sorted(order) == list(range(4000))


def test_a_million_rows_take_seconds_and_no_python_per_row() -> None:
    import time

    count = 1_000_000
    start = time.perf_counter()
    sampler = RowSampler(count, 0, levels=[(np.arange(count) // 3, 4), (np.arange(count) // 100, 32)])
    assert np.array_equal(np.sort(sampler.order()), np.arange(count))
    assert time.perf_counter() - start < 20


def test_names_are_numbered_in_order_and_none_is_in_no_group() -> None:
    assert numbered(["b", None, "a", "b"]).tolist() == [0, -1, 1, 0]
    assert len(list(RowSampler(0, 0))) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": [(np.zeros(3, int), 4)]}, r"groups: 8 rows need \[8\] integers"),
        ({"levels": [(np.zeros(8, int), 0)]}, "level 0: a chunk has at least 1 row"),
        (
            {"sources": np.array([0] * 7 + [1]), "per_source": 4},
            "source number 2 would .*of 4; lower per_source or leave",
        ),
        (
            {"sources": np.array([0] * 7 + [1]), "weights": [1, 0.01]},
            "2 would give 0 rows an epoch; give it more weight or",
        ),
        ({"sources": np.array([0] * 7 + [1]), "weights": [1]}, "1 weights for 2 sources"),
        ({"sources": np.array([0] * 7 + [1]), "weights": [1, float("nan")]}, "numbers above 0"),
        ({"sources": np.array([0] * 7 + [2]), "weights": [1, 1, 1]}, "source number 2 has a weight but no rows"),
        ({"sources": np.array([-1] * 8)}, "numbered from 0"),
    ],
)
def test_what_does_not_fit_is_said(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RowSampler(8, 0, **options)
