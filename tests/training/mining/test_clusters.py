"""B3's clusters: they find a structure that is there, and batches made of them are harder than batches by chance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mllm_embed import DataFolder, MLLMEmbedder
from mllm_embed.training.batch.sampler import RowSampler
from mllm_embed.training.data.folder import read_rows
from mllm_embed.training.mining.chance import Chance, chance_of, rewired
from mllm_embed.training.mining.clusters import Graph, nearness, partition
from mllm_embed.training.mining.negatives import search_blocks
from mllm_embed.training.mining.questions import Questions

pytest.importorskip("pymetis")
ROOT = Path(__file__).parents[3]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(groups: int, size: int, width: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries and answers around well separated centres, in no order."""
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(groups), size))
    centres = unit(rng.standard_normal((groups, width)))
    noise = 0.1 * rng.standard_normal((2, groups * size, width))
    return unit(centres[truth] + noise[0]), unit(centres[truth] + noise[1]), truth


def clusters(queries: np.ndarray, answers: np.ndarray, size: int, skip: int, edges: int) -> np.ndarray:
    each = np.arange(len(queries))
    own = [{row} for row in each.tolist()].__getitem__
    graph = Graph(each, each, skip, edges)
    for part, _, places in search_blocks(queries, answers, own, skip + edges):
        graph.add(part.start, places, len(answers))
    return partition(*graph.mutual(), len(queries), size)


def test_a_known_structure_is_found() -> None:
    queries, answers, truth = clustered(20, 16)
    found = clusters(queries, answers, 16, skip=2, edges=10)
    assert len({(a, b) for a, b in zip(found, truth, strict=True)}) == 20 == len(set(found))
    assert np.array_equal(found, clusters(queries, answers, 16, skip=2, edges=10))  # METIS is seeded


@pytest.mark.parametrize("size", [2, 3, 8])
def test_small_clusters_are_of_the_size_that_is_asked_for(size: int) -> None:
    queries, answers, truth = clustered(20, 16)
    found = clusters(queries, answers, size, skip=2, edges=10)
    sizes = np.bincount(found)
    assert len(sizes) == round(320 / size) and sizes.max() <= 2 * size and np.median(sizes) == size
    same = sum(len(set(truth[found == number])) == 1 for number in range(len(sizes)))
    assert same > 0.9 * len(sizes)  # of rows that are hard for each other


def test_edges_are_the_mutual_ranks_of_the_obvious_loop() -> None:
    """Rows that share queries and positives, and candidates that are no row's positive, among them."""
    rng = np.random.default_rng(1)
    query, positive = rng.integers(0, 20, 40), rng.integers(0, 15, 40)
    query, positive = (np.unique(part, return_inverse=True)[1] for part in (query, positive))
    answers = positive.max() + 1
    queries, gallery = unit(rng.standard_normal((query.max() + 1, 5))), unit(rng.standard_normal((answers + 4, 5)))
    right = [set(positive[query == q].tolist()) for q in range(len(queries))]
    graph, skip, edges = Graph(query, positive, 2, 6), 2, 6
    for part, _, places in search_blocks(queries, gallery, right.__getitem__, 30):
        graph.add(part.start, places, answers)
    ranked = {}
    for row in range(40):
        order = np.argsort(-(gallery[:answers] @ queries[query[row]]))
        ranked[row] = [n for n in order.tolist() if n not in right[query[row]]][skip : skip + edges]
    wanted = {
        (i, j) for i in range(40) for j in range(40) if i != j and positive[j] in ranked[i] and positive[i] in ranked[j]
    }
    assert wanted and set(zip(*(side.tolist() for side in graph.mutual()), strict=True)) == wanted


def test_nearness_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(2)
    queries, gallery = unit(rng.standard_normal((9, 4))), unit(rng.standard_normal((7, 4)))
    query, positive, groups = rng.integers(0, 9, 12), rng.integers(0, 7, 12), rng.integers(0, 3, 12)
    pairs = {(i, j): queries[query[i]] @ gallery[positive[j]] for i in range(12) for j in range(12) if i != j}
    inside = np.mean([value for (i, j), value in pairs.items() if groups[i] == groups[j]])
    assert np.allclose(nearness(queries, gallery, query, positive, groups), (inside, np.mean(list(pairs.values()))))


def test_batches_of_the_embedded_scenes_get_harder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/make_scenes.py"), "--output", str(tmp_path), "--pairs", "8"]
    subprocess.run([*command, "--triplets", "160", "--references", "1"], check=True, capture_output=True)
    folder = DataFolder.open(tmp_path / "train")
    questions = Questions.of(read_rows(folder, tmp_path / "train", "triplets", []), "composed", "target_text")
    embedder = MLLMEmbedder.from_pretrained(
        ROOT / "scripts/assets/base", adapter=ROOT / "scripts/assets/adapters/instructions", device="cpu"
    )
    queries, gallery = embedder.encode(list(questions.queries)), embedder.encode(list(questions.gallery))
    graph = Graph(questions.query, questions.positive, 5, 30)
    for part, _, places in search_blocks(queries, gallery, questions.right, 40):
        graph.add(part.start, places, questions.answers)
    count = len(questions.query)
    cluster = partition(*graph.mutual(), count, 8)

    def batches(levels: list) -> float:
        batch = np.empty(count, np.int64)
        batch[RowSampler(count, 0, levels=levels).order()] = np.arange(count) // 16
        return nearness(queries, gallery, questions.query, questions.positive, batch)[0]

    by_chance, harder = batches([]), batches([(cluster, 8)])
    assert harder > by_chance + 0.02, (by_chance, harder)


def graph_of(queries: np.ndarray, answers: np.ndarray, skip: int, edges: int) -> tuple[np.ndarray, np.ndarray]:
    each = np.arange(len(queries))
    graph = Graph(each, each, skip, edges)
    for part, _, places in search_blocks(queries, answers, [{row} for row in each.tolist()].__getitem__, skip + edges):
        graph.add(part.start, places, len(answers))
    return graph.mutual()


def chance_for(queries: np.ndarray, answers: np.ndarray, size: int, skip: int = 2, edges: int = 20) -> Chance:
    graph = graph_of(queries, answers, skip, edges)
    return chance_of(*graph, partition(*graph, len(queries), size), size)


def test_clusters_of_nothing_are_told_from_clusters_of_something() -> None:
    rng = np.random.default_rng(0)
    noise = unit(rng.standard_normal((320, 24))), unit(rng.standard_normal((320, 24)))
    chance = chance_for(*noise, 16)
    assert not chance.better and chance.kept > 3 * chance.drawn  # METIS finds parts in anything
    found = chance_for(*clustered(20, 16)[:2], 16)
    assert found.better and found.kept > 0.5
    # of few rows each is near each: parts of a graph that is complete
    few = chance_for(noise[0][:24], noise[1][:24], 4, skip=0, edges=100)
    assert not few.better and few.kept == pytest.approx(few.drawn)
    nothing = chance_for(noise[0][:4], noise[1][:4], 2, skip=3)
    assert nothing.edges == 0 and not nothing.better


def test_a_rewired_graph_has_the_edges_of_the_given_one() -> None:
    left, right = graph_of(*clustered(10, 16)[:2], 2, 10)
    one, other = rewired(left, right, 160, 0)
    edges = set(zip(one.tolist(), other.tolist(), strict=True))
    assert len(edges) == len(one) and {(b, a) for a, b in edges} == edges and not any(a == b for a, b in edges)
    before, after = (np.bincount(part, minlength=160) for part in (left, one))
    assert (after <= before).all() and after.sum() > 0.85 * before.sum()
    assert len(edges & set(zip(left.tolist(), right.tolist(), strict=True))) < 0.3 * len(edges)
