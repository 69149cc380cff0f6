"""Tuned product codes: a row's score is that of its code by the tuned centroids, however a search comes by it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.index.build import build_index
from mllm_embed.index.faiss_index import Index
from mllm_embed.index.jpq.quantizer import QUANTIZER_FILE, TunedQuantizer
from mllm_embed.saving.provenance import INDEX, SPACE_FIELDS
from mllm_embed.store.vector_store import VectorStore

ROWS, SIZE, BYTES = 700, 16, 4
SPACE = dict.fromkeys(SPACE_FIELDS, "a") | {"base": "b", "dimension": SIZE}


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, SIZE)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def learned() -> TunedQuantizer:
    return replace(TunedQuantizer.learn(unit(ROWS, 0), BYTES), space=SPACE)


@pytest.fixture(scope="module")
def quantizer(learned: TunedQuantizer) -> TunedQuantizer:
    moved = 0.1 * np.random.default_rng(1).standard_normal(learned.coded.shape).astype(np.float32)
    return replace(learned, scored=learned.coded + moved)


def make_store(folder: Path, rows: int, **provenance: object) -> VectorStore:
    store = VectorStore.create(folder, SIZE, provenance=SPACE | provenance)
    store.add([f"r{row}" for row in range(rows)], unit(ROWS, 0)[:rows])
    return store


def slow(quantizer: TunedQuantizer, query: np.ndarray, rows: int) -> list[tuple[str, float]]:
    """Return all rows with their scores, best first, piece by piece: the old centroids code, the tuned ones score."""
    turned, pieces, found = quantizer.rotation @ query, SIZE // BYTES, []
    for number, row in enumerate(unit(ROWS, 0)[:rows]):
        other, score = quantizer.rotation @ row, 0.0
        for piece in range(BYTES):
            part = slice(piece * pieces, (piece + 1) * pieces)
            code = np.square(quantizer.coded[piece] - other[part]).sum(1).argmin()
            score += float(turned[part] @ quantizer.scored[piece, code])
        found.append((f"r{number}", score))
    return sorted(found, key=lambda answer: -answer[1])


def test_every_way_to_a_row_scores_its_code(quantizer: TunedQuantizer, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", 600)
    index = build_index(store, tmp_path / "i", "jpq", tuned=quantizer, show_progress=False)
    query = unit(1, 5)

    def check(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
        assert np.allclose([score for _, score in found], [score for _, score in wanted], atol=1e-5)
        assert {name for name, _ in found[:-1]} <= {name for name, score in wanted} | {wanted[-1][0]}

    wanted = slow(quantizer, query[0], 600)
    check(index.nearest(query, 5)[0], wanted[:5])  # by FAISS
    check(index.nearest(query, 500)[0], wanted[:500])  # by comparing rows
    allowed = [name for name, _ in wanted[100:120]]
    check(index.nearest(query, 20, allow=allowed)[0], wanted[100:120])
    store.remove([wanted[0][0]])
    store.add([f"r{row}" for row in range(600, ROWS)], unit(ROWS, 0)[600:])
    wanted = [answer for answer in slow(quantizer, query[0], ROWS) if answer[0] != wanted[0][0]]
    index = Index.open(tmp_path / "i")
    check(index.nearest(query, 9)[0], wanted[:9])  # rows that are not in the index have the codes that they will have
    assert index.update() == 100
    check(index.nearest(query, 9)[0], wanted[:9])


def test_untuned_codes_rank_as_faiss_ranks(learned: TunedQuantizer, tmp_path: Path) -> None:
    index = build_index(make_store(tmp_path / "s", ROWS), tmp_path / "i", "jpq", tuned=learned, show_progress=False)
    plain = faiss.index_factory(SIZE, f"OPQ{BYTES},PQ{BYTES}np", faiss.METRIC_INNER_PRODUCT)
    faiss.downcast_VectorTransform(plain.chain.at(0)).niter = 10  # as the house trains it
    plain.train(unit(ROWS, 0))
    plain.add(unit(ROWS, 0))
    queries = unit(20, 3)
    scores, _ = plain.search(queries, 10)
    found = np.array([[score for _, score in answers] for answers in index.nearest(queries, 10)])
    assert np.allclose(found, scores, atol=1e-5)


def test_codes_go_with_what_they_were_tuned_for(
    quantizer: TunedQuantizer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store = make_store(tmp_path / "s", 300)
    index = build_index(store, tmp_path / "i", "jpq", tuned=quantizer, show_progress=False)
    assert index.provenance[INDEX] == quantizer.identity and index.provenance["base"] == "b"
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="--tuned"):
        build_index(store, tmp_path / "n", "jpq")
    with pytest.raises(ConfigError, match="leave --tuned out"):
        build_index(store, tmp_path / "n", "flat", tuned=quantizer)
    with pytest.raises(ConfigError, match="made otherwise"):
        build_index(make_store(tmp_path / "other", 300, base="c"), tmp_path / "n", "jpq", tuned=quantizer)
    with pytest.raises(ConfigError, match="give 4 or 8"):
        TunedQuantizer.learn(unit(ROWS, 0), 6)
    command = ["index", str(tmp_path / "s"), "--kind", "jpq", "--tuned", str(tmp_path / "a")]
    assert main(command) == 2 and "a stage that has `jpq`" in capsys.readouterr().err
    quantizer.save(tmp_path / "a" / QUANTIZER_FILE)
    assert main(command) == 0 and "jpq" in capsys.readouterr().out
    assert Index.open(tmp_path / "s.index").provenance == index.provenance


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_quantizer_is_told(quantizer: TunedQuantizer, tmp_path: Path, damage: str) -> None:
    build_index(make_store(tmp_path / "s", 300), tmp_path / "i", "jpq", tuned=quantizer, show_progress=False)
    path = tmp_path / "i" / QUANTIZER_FILE
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        shutil.copy(tmp_path / "i" / "index.faiss", path)
    for verify in (True, False):
        with pytest.raises(DataError, match=f"{QUANTIZER_FILE}.*build the index again"):
            Index.open(tmp_path / "i", verify=verify)
