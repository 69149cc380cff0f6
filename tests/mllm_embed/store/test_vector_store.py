"""A vector store: what goes in comes out, and nobody reads half of anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mllm_embed.errors import ConfigError, DataError
from mllm_embed.locks import folder_lock
from mllm_embed.store.vector_store import VectorStore

WORST = {"float32": 0.0, "float16": 1e-3, "int8": 2e-2}


def unit(rows: int, size: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    made = VectorStore.create(tmp_path / "store", 16, provenance={"base": "b"})
    made.add([f"a{at}" for at in range(5)], unit(5), [f"/p/{at}.jpg" for at in range(5)])
    made.add(["b0", "b1"], unit(2, seed=1))
    return made


@pytest.mark.parametrize("dtype", WORST)
def test_what_goes_in_comes_out(tmp_path: Path, dtype: str) -> None:
    first, second = unit(70), unit(30, seed=1)
    made = VectorStore.create(tmp_path / "s", 16, dtype=dtype, provenance={"base": "b"})
    made.add([f"{at}" for at in range(70)], first, [f"/p/{at}" for at in range(70)])
    made.add([f"{at}" for at in range(70, 100)], second)
    read, both = VectorStore.open(tmp_path / "s"), np.concatenate([first, second])
    assert (len(read), read.dtype, read.dimension, read.provenance) == (100, np.dtype(dtype), 16, {"base": "b"})
    assert read.ids == [str(at) for at in range(100)] and read.sources == [f"/p/{at}" for at in range(70)] + [None] * 30
    assert np.abs(read.rows(0, 100) - both).max() <= WORST[dtype]
    assert np.abs(read.rows(60, 80) - both[60:80]).max() <= WORST[dtype]
    some = np.array([99, 3, 70, 3])
    assert np.array_equal(read.take(some), read.rows(0, 100)[some])
    assert np.allclose(np.linalg.norm(read.rows(0, 100), axis=1), 1, atol=1e-5)
    blocks = list(read.blocks(33))
    assert [start for start, _ in blocks] == [0, 33, 66, 99]
    assert np.array_equal(np.concatenate([rows for _, rows in blocks]), read.rows(0, 1000))
    files = sum(path.stat().st_size for path in (tmp_path / "s/shards").glob("*.npy"))
    assert files == 100 * 16 * np.dtype(dtype).itemsize + 2 * 128  # and two headers
    read.verify()


def test_removed_rows_keep_their_numbers(store: VectorStore) -> None:
    before = store.fingerprint
    store.remove(["a1", "b0"])
    read = VectorStore.open(store.folder)
    assert read.alive.tolist() == [True, False, True, True, True, False, True]
    assert list(read.living) == ["a0", "a2", "a3", "a4", "b1"] and read.position("b1") == 6
    assert read.fingerprint == store.fingerprint != before
    assert read.rows_fingerprint(2) == VectorStore.open(store.folder).rows_fingerprint(2)
    with pytest.raises(DataError, match='the id "a1" is not in the 5 vectors of .*store$'):
        read.position("a1")
    with pytest.raises(DataError, match='"nobody" is not in'):
        read.remove(["a0", "nobody"])
    assert read.position("a0") == 0  # nothing was removed
    read.add(["a1"], unit(1, seed=3))  # it may come again
    assert VectorStore.open(store.folder).position("a1") == 7


def test_a_reader_sees_the_store_as_it_was_opened(store: VectorStore) -> None:
    early = VectorStore.open(store.folder)
    before = early.fingerprint
    store.add(["c"], unit(1))
    assert len(early) == 7 and early.fingerprint == before
    early.add(["d"], unit(1))  # a writer first sees what others wrote
    assert VectorStore.open(store.folder).ids[-2:] == ["c", "d"]


@pytest.mark.parametrize(
    ("ids", "vectors", "words"),
    [
        (["x", "x"], unit(2), 'the id "x" is given twice'),
        (["x", "a3"], unit(2), 'the id "a3" is in .*store already: remove it first'),
        (["x"], unit(1, 8), r"1 ids do not fit vectors of shape \(1, 8\): give \[n, 16\]"),
        (["x"], np.full((1, 16), np.nan), 'the vector of "x" holds NaN'),
        (["x"], 3 * unit(1), 'the vector of "x" has the length 3'),
    ],
)
def test_what_cannot_be_added(store: VectorStore, ids: list[str], vectors: np.ndarray, words: str) -> None:
    before = {path: path.read_bytes() for path in sorted(store.folder.rglob("*")) if path.is_file()}
    with pytest.raises(DataError, match=words):
        store.add(ids, vectors)
    assert {path: path.read_bytes() for path in sorted(store.folder.rglob("*")) if path.is_file()} == before


def test_one_process_writes_at_a_time(store: VectorStore) -> None:
    with folder_lock(store.folder), pytest.raises(ConfigError, match="another process is writing to .*store"):
        store.add(["x"], unit(1))


def test_a_full_disk_leaves_the_store_as_it_was(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(DataError, match="1 vectors needs .* on the disk of .*, which has 0.0 MiB free"):
        store.add(["x"], unit(1))
    assert len(VectorStore.open(store.folder)) == 7


def _spoil(folder: Path, what: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    if what == "format":
        (folder / "manifest.json").write_text(json.dumps(manifest | {"format": "mllm_embed vectors 9"}))
    elif what == "manifest":
        (folder / "manifest.json").write_text(json.dumps(manifest | {"shards": 3}))
    elif what == "half a manifest":
        (folder / "manifest.json").write_text('{"format')
    elif what == "no shard":
        (folder / "shards/000001.npy").unlink()
    elif what == "short shard":
        path = folder / "shards/000001.npy"
        path.write_bytes(path.read_bytes()[:-4])
    elif what == "other shard":
        np.save(folder / "shards/000001.npy", unit(3))
    elif what == "changed shard":
        np.save(folder / "shards/000001.npy", unit(2, seed=9))
    elif what == "no ids":
        (folder / "shards/000000.json").unlink()
    elif what == "removed":
        np.save(folder / "removed.npy", np.array(["a1"]))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("format", "manifest.json has the format 'mllm_embed vectors 9', this version reads"),
        ("manifest", r"manifest.json is damaged \(shards\)"),
        ("half a manifest", "manifest.json is not JSON"),
        ("no shard", "000001.npy is missing"),
        ("short shard", "000001.npy is damaged"),
        ("other shard", "000001.npy is float32 of shape .3, 16., not float32 of 2 x 16"),
        ("changed shard", "000001.npy is not what was written"),
        ("no ids", "000000.json is missing"),
        ("removed", "removed.npy holds no row numbers"),
    ],
)
def test_a_damaged_store_is_refused_by_name(store: VectorStore, what: str, words: str) -> None:
    _spoil(store.folder, what)
    with pytest.raises(DataError, match=words):
        read = VectorStore.open(store.folder)
        read.rows(0, 7)
        assert read.ids
        read.verify()


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no vector store .it has no manifest.json"):
        VectorStore.open(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="holds something already"):
        VectorStore.create(tmp_path, 4)
    with pytest.raises(DataError, match="is a file"):
        VectorStore.create(tmp_path / "notes.txt", 4)
    with pytest.raises(DataError, match="a store keeps float32, float16, int8, not float64"):
        VectorStore.create(tmp_path / "s", 4, dtype="float64")
    VectorStore.create(tmp_path / "s", 4)
    with pytest.raises(DataError, match="holds no vectors yet"):
        VectorStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "kept"),
    [(0, "0"), (np.int64(7), "7"), (False, "False"), (1.0, "1.0"), (np.float32(0.5), "0.5"), (b"a", "a"), ("0", "0")],
)
def test_ids_become_texts(tmp_path: Path, name: object, kept: str) -> None:
    store = VectorStore.create(tmp_path / "s", 2)
    store.add([name], np.array([[1.0, 0.0]]))
    assert VectorStore.open(tmp_path / "s").ids == [kept]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, r"id 2 is empty \(None\)"),
        (float("nan"), r"id 2 is empty \(nan\)"),
        (np.float32("nan"), r"id 2 is empty \(.*nan"),
        ("", "id 2 is empty"),
        (" ", "id 2 is empty"),
        ([1], r"id 2 is the list \[1\], which is no name"),
        (b"\xff", "id 2 is 1 bytes that are no UTF-8 text"),
        ("\ud83d", r'id 2, "\\ud83d", is no Unicode'),
        ("1", 'the id "1" is'),
    ],
)
def test_what_is_no_id_is_refused(tmp_path: Path, name: object, words: str) -> None:
    store = VectorStore.create(tmp_path / "s", 2)
    with pytest.raises(DataError, match=words):
        store.add([1, name], np.array([[1.0, 0.0]] * 2))
    assert len(store) == 0
