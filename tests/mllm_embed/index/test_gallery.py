"""Galleries: a store searched exactly, and every kind of index, through one interface."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.index.build import build_index, probe
from mllm_embed.index.faiss_index import Index
from mllm_embed.index.kinds import OF_STORES
from mllm_embed.index.target import Target, build_for
from mllm_embed.store.gallery import Gallery, StoreGallery
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.bebr import training

ROWS, SIZE = 3000, 32
COMPRESSED = [name for name, kind in OF_STORES.items() if kind.compressed]


def clustered(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, SIZE))
    vectors = centres[rng.integers(60, size=rows)] + 0.5 * rng.standard_normal((rows, SIZE))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_store(folder: Path, rows: int = ROWS) -> VectorStore:
    store = VectorStore.create(folder, SIZE, provenance={"base": "b"})
    vectors = clustered(rows)
    for start in range(0, rows, 1300):
        part = slice(start, min(start + 1300, rows))
        store.add([f"r{row}" for row in range(rows)[part]], vectors[part], [f"/p/{row}" for row in range(rows)[part]])
    return store


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a store and its index of a kind, built once a kind."""
    home = tmp_path_factory.mktemp("indexes")
    store = make_store(home / "store")
    found = probe(store)

    def build(kind: str) -> Path:
        if not (home / kind).is_dir():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(training, "_STEPS", 20)
                build_index(store, home / kind, kind, known=found, show_progress=False)
        return home / kind

    return build


@pytest.fixture
def index(built: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Index]:
    """An index of a kind, with its store, that a test may spoil."""

    def copy(kind: str) -> Index:
        folder = built(kind)
        shutil.copytree(folder.parent / "store", tmp_path / "store")
        shutil.copytree(folder, tmp_path / kind)
        return Index.open(tmp_path / kind)

    return copy


def truth(store: VectorStore, queries: np.ndarray, k: int, alive: np.ndarray | None = None) -> list[list[str]]:
    scores = queries.astype(np.float64) @ store.rows(0, len(store)).T.astype(np.float64)
    scores[:, ~(store.alive if alive is None else alive)] = -np.inf
    return [[store.ids[at] for at in np.argsort(-row, kind="stable")[:k]] for row in scores]


def ids(found: list[list[tuple[str, float]]]) -> list[list[str]]:
    return [[name for name, _ in row] for row in found]


def test_a_store_is_searched_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_embed.store import exact as module

    store, queries = make_store(tmp_path / "s"), clustered(7, seed=5)
    monkeypatch.setattr(module, "_SMALL", 700)  # a block for each shard
    found = StoreGallery(store).nearest(queries, 12)
    assert ids(found) == truth(store, queries, 12)
    vectors = store.rows(0, ROWS)
    scores = [[score for _, score in row] for row in found]
    wanted = [
        [float(query @ vectors[store.position(name)]) for name, _ in row]
        for query, row in zip(queries, found, strict=True)
    ]
    assert np.abs(np.array(scores) - wanted).max() < 1e-6


def test_equal_scores_come_in_row_order(tmp_path: Path) -> None:
    store = VectorStore.create(tmp_path / "s", 4)
    one, two = np.eye(4, dtype=np.float32)[:2]
    store.add(["c", "a", "b"], np.stack([one, two, one]))
    store.add(["d", "e"], np.stack([one, one]))
    assert ids(StoreGallery(store).nearest(one[None], 9)) == [["c", "b", "d", "e", "a"]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_STORES)
def test_every_kind_finds_what_its_card_says(built: Callable[[str], Path], kind: str) -> None:
    index = Index.open(built(kind))
    card, files = index.card, json.loads((built(kind) / "index.json").read_text())["files"]
    size = sum((built(kind) / name).stat().st_size for name in files)
    assert card["bytes"] == size and card["ratio"] == pytest.approx(size / (4 * SIZE * ROWS))
    assert card["recall"] >= 0.97 and (card["rerank"] is None) == (kind not in COMPRESSED)
    assert card["rows"] == ROWS and card["build_seconds"] >= 0 and card["one_ms"] > 0 and card["batch_ms"] > 0
    known = probe(index.store)
    found = index.nearest(known.queries, 10)
    wanted = [[index.store.ids[row] for row in rows] for rows in known.rows]
    overlap = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(ids(found), wanted, strict=True)])
    assert overlap == pytest.approx(card["recall"], abs=1e-9)
    assert f"{card['recall']:.4f}" in (built(kind) / "card.md").read_text()
    scores = np.array([[score for _, score in row] for row in found])
    assert (np.diff(scores) <= 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", *COMPRESSED])
def test_all_rows_scored_again_is_exact(built: Callable[[str], Path], kind: str) -> None:
    index, queries = Index.open(built(kind)), clustered(9, seed=3)
    setting = index.kind.settings[-1] if index.kind.knob else 0
    _, rows = index.search(queries, 10, setting, ROWS)
    assert [[index.store.ids[row] for row in found] for found in rows] == truth(index.store, queries, 10)


@pytest.mark.parametrize("kind", OF_STORES)
def test_the_store_decides_what_is_found(index: Callable[[str], Index], kind: str) -> None:
    made = index(kind)
    made.setting, made.rerank = made.kind.settings[-1], 50
    queries = clustered(5, seed=4)
    first = ids(made.nearest(queries, 3))
    gone = sorted({row[0] for row in first})
    made.remove(gone)
    assert not set(gone) & {name for row in ids(made.nearest(queries, 50)) for name in row}
    new = [f"new{at}" for at in range(5)]
    made.add(new, queries, [None] * 5)
    assert [row[0] for row in ids(made.nearest(queries, 3))] == new  # compared exactly, before any update
    assert len(made) == ROWS - len(gone) + 5
    assert made.update() == 5 and made.update() == 0
    again = Index.open(made.folder)
    assert len(again.engine) == len(again.store) == ROWS + 5
    again.setting, again.rerank = made.setting, 50
    found = ids(again.nearest(queries, 50))
    assert [row[0] for row in found] == new and not set(gone) & {name for row in found for name in row}


@pytest.mark.parametrize("kind", ["store", "flat", "hnsw", "rabitq", "binary"])
def test_what_may_and_may_not_answer(built: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_embed.index import faiss_index as module

    made: Gallery = StoreGallery(VectorStore.open(built("flat").parent / "store"))
    if kind != "store":
        made = Index.open(built(kind))
        made.setting, made.rerank = made.kind.settings[-1], 50
    store, queries = made.store, clustered(4, seed=6)
    best = truth(store, queries, 5)
    found = ids(made.nearest(queries, 5, exclude=[row[:3] for row in best]))
    assert all(row[:2] == right[3:] and not set(row) & set(right[:3]) for row, right in zip(found, best, strict=True))
    allow = [f"r{row}" for row in range(0, ROWS, 2)]
    mask = np.arange(ROWS) % 2 == 0
    for walked in (100_000, 0):  # exactly, and by the index
        monkeypatch.setattr(module, "WALKED", walked)
        assert ids(made.nearest(queries, 4, allow=allow)) == truth(store, queries, 4, mask)
    assert ids(made.nearest(queries[:1], 9, allow=["r5", "r3"], exclude=[["r5"]])) == [["r3"]]
    assert made.sources(["r7"]) == ["/p/7"] and made.provenance == {"base": "b"}
    for options, words in (
        ({"allow": ["nobody"]}, 'the id "nobody" is not in the 3,000 vectors'),
        ({"allow": []}, "allow names no id"),
        ({"exclude": [["nobody"]] * 4}, 'the id "nobody" is not in'),
        ({"exclude": [[]]}, "exclude has 1 entries for 4 queries"),
        ({"k": 0}, "k must be at least 1, not 0"),
    ):
        with pytest.raises(DataError, match=words):
            made.nearest(queries, **({"k": 3} | options))
    with pytest.raises(DataError, match=r"queries of shape \(4, 8\) do not fit vectors of 32"):
        made.nearest(queries[:, :8], 3)
    with pytest.raises(DataError, match="a query holds NaN"):
        made.nearest(queries * np.nan, 3)


def test_an_index_that_calls_its_kind_as_before_opens(index: Callable[[str], Index], tmp_path: Path) -> None:
    made = index("learned-signs")
    path = made.folder / "index.json"
    settings = json.loads(path.read_text())
    assert settings["kind"] == "learned-signs"
    del settings["sha256"], settings["deeper"]  # nor did it say these
    path.write_text(json.dumps(settings | {"kind": "bebr"}))
    old, queries = Index.open(made.folder), clustered(5, seed=4)
    assert old.kind_name == "learned-signs" and old.kind is made.kind
    assert old.nearest(queries, 7) == made.nearest(queries, 7)
    old.add(["new"], queries[:1])
    assert old.update() == 1 and Index.open(made.folder).nearest(queries[:1], 1)[0][0][0] == "new"
    # what is built by that name now is another kind, and its file says so
    again = build_index(make_store(tmp_path / "few", rows=20), tmp_path / "again", "bebr", show_progress=False)
    assert again.kind_name == again.card["kind"] == "bebr" and again.kind is not made.kind
    path = again.folder / "index.json"
    settings = json.loads(path.read_text())
    assert settings["levels"] == 4 and sorted(settings["files"]) == ["codes.npy", "head.safetensors"]
    del settings["sha256"], settings["levels"]
    path.write_text(json.dumps(settings))
    with pytest.raises(DataError, match="FAISS cannot read .*index.faiss.*build the index again"):
        Index.open(again.folder)


def test_what_is_refused(index: Callable[[str], Index], tmp_path: Path) -> None:
    made = index("rabitq")
    store, folder = made.store, made.folder
    with pytest.raises(DataError, match="was built of other vectors than"):
        Index.open(folder, make_store(tmp_path / "other", rows=50))
    raw = bytearray((folder / "index.faiss").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "index.faiss").write_bytes(raw)
    with pytest.raises(DataError, match="index.faiss is not what was written: build the index again"):
        Index.open(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(DataError, match="index.json is not JSON"):
        Index.open(folder)
    with pytest.raises(DataError, match="is no index .it has no index.json"):
        Index.open(store.folder)
    with pytest.raises(DataError, match="holds something else than an index"):
        build_index(store, store.folder, "flat")
    with pytest.raises(ConfigError, match="there is no kind 'hsnw' of index; there are .*did you mean 'hnsw'"):
        build_index(store, tmp_path / "n", "hsnw")
    store.remove([f"r{row}" for row in range(ROWS)])
    with pytest.raises(DataError, match="holds no vectors: there is nothing to index"):
        build_index(store, tmp_path / "n", "flat")
    assert not (tmp_path / "n").exists()


def test_two_rows_make_an_index(tmp_path: Path) -> None:
    store = VectorStore.create(tmp_path / "s", SIZE)
    store.add(["a", "b"], clustered(2))
    for kind in OF_STORES:
        made = build_index(store, tmp_path / kind, kind, show_progress=False)
        assert sorted(ids(made.nearest(clustered(1), 10))[0]) == ["a", "b"]


def test_fewer_rows_than_dimensions_are_rotated_too(tmp_path: Path) -> None:
    store = VectorStore.create(tmp_path / "s", 264)  # more than there are centroids, too
    rows = np.eye(3, 264, dtype=np.float32)
    store.add(["a", "b", "c"], rows)
    made = build_index(store, tmp_path / "pq", "pq", show_progress=False)
    assert [found[0] for found in ids(made.nearest(rows, 1))] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("recall>=0.97,size<=1/16", Target(0.97, 1 / 16)),
        ("latency <= 5 ms", Target(latency=5)),
        ("size<=0.5, recall>=1", Target(1, 0.5)),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no bound on recall, size or latency; give \"recall>=0.97"),
        ("recall=0.9", "'recall=0.9' is no bound"),
        ("speed>=3", "'speed>=3' is no bound"),
        ("recall<=0.9", "bounds recall the wrong way"),
        ("size<=5ms", "bounds size the wrong way, or in no unit"),
        ("size<=1/0", "'1/0' is no number"),
        ("recall>=0.9,recall>=0.8", "names recall twice"),
        ("recall>=97", "recall is between 0 and 1, not 97"),
    ],
)
def test_targets_that_are_none(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Target.parse(text)


def test_a_target_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_embed.index import target as module

    store, said = make_store(tmp_path / "s"), []
    monkeypatch.setattr(module, "_SAMPLE", 2000)
    monkeypatch.setattr(module, "OF_STORES", {name: OF_STORES[name] for name in ("flat", "sq8", "rabitq", "binary")})
    made = build_for(store, tmp_path / "i", Target(0.95, 0.35), say=said.append, show_progress=False)
    assert made.kind_name in ("sq8", "rabitq", "binary") and made.card["rows"] == ROWS
    assert made.card["recall"] >= 0.95 and made.card["ratio"] <= 0.35
    assert said.pop(0).startswith("an exact search of the 3,000 vectors takes ")
    assert [line.split()[0] for line in said[:3]] == ["sq8", "rabitq", "binary"]
    with pytest.raises(ConfigError, match="no kind of index meets the target; '.*' comes nearest: .*latency"):
        build_for(store, tmp_path / "j", Target(0.95, latency=1e-6), show_progress=False)
    with pytest.raises(ConfigError, match="no kind of index is that small; the smallest takes 1/32"):
        build_for(store, tmp_path / "j", Target(0.95, 1 / 1000), show_progress=False)
    assert not (tmp_path / "j").exists() and not list(tmp_path.glob(".index-*"))


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "s")
    assert main(["index", str(tmp_path / "s"), "--kind", "binary"]) == 0
    out = capsys.readouterr().out
    assert "| recall@10 |" in out and f"wrote {tmp_path / 's.index'}" in out
    store.add(["x"], clustered(1, seed=8))
    assert main(["index", str(tmp_path / "s"), "--update"]) == 0
    assert "took in 1 rows" in capsys.readouterr().out
    queries = VectorStore.create(tmp_path / "q", SIZE)
    queries.add(["q"], clustered(1, seed=9))
    given = ["--target", "recall>=0.5,size<=1/16", "--queries", str(tmp_path / "q"), "--output", str(tmp_path / "o")]
    assert main(["index", str(tmp_path / "s"), *given]) == 0
    assert "1 given queries" in capsys.readouterr().out
    VectorStore.create(tmp_path / "w", 8).add(["q"], np.eye(8, dtype=np.float32)[:1])
    for wrong, words in (
        (["nowhere", "--kind", "flat"], "nowhere is no vector store"),
        ([str(tmp_path / "s"), "--kind", "fast"], "there is no kind 'fast' of index"),
        ([str(tmp_path / "s"), "--target", "good"], "--target: 'good' is no bound"),
        (
            [str(tmp_path / "s"), "--kind", "flat", "--output", str(tmp_path / "q")],
            "holds something else than an index",
        ),
        ([str(tmp_path / "s"), "--kind", "flat", "--queries", str(tmp_path / "w")], "has vectors of 8 numbers"),
        ([str(tmp_path / "s"), "--update", "--output", str(tmp_path / "n")], "is no index"),
    ):
        assert main(["index", *wrong]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_half(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    command = [sys.executable, "-m", "mllm_embed.cli", "index", str(tmp_path / "s"), "--kind", "rabitq"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and not list(tmp_path.glob(".s.index-*/new")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(DataError, match="is no index"):
        Index.open(tmp_path / "s.index")
    subprocess.run(command, env=environment, check=True)
    build_index(VectorStore.open(tmp_path / "s"), tmp_path / "again", "rabitq", show_progress=False)
    assert (tmp_path / "again" / "index.faiss").read_bytes() == (tmp_path / "s.index" / "index.faiss").read_bytes()
    assert not list(tmp_path.glob(".s.index-*"))
