"""Exports of a store, read back with what others read them with."""

from __future__ import annotations

import json
import signal
import time
from _thread import interrupt_main
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.store.export import KINDS, export
from mllm_embed.store.export import rows as rows_module
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.unit import unit

WIDTH = 8
ROWS = [5, 0, 2, 3, 4]  # of those that are added, the ones that are left, in the order of the store
METADATA = [{"price": float(number), "tags": ["a", "b"][: number % 3], "source": f"s{number}"} for number in range(6)]


@pytest.fixture(params=["float32", "float16", "int8"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VectorStore:
    """A store of two shards with a removed row, and one that came again."""
    store = VectorStore.create(tmp_path / "s", WIDTH, dtype=request.param, provenance={"model": "made", "n": [1]})
    vectors = unit(np.random.default_rng(0).standard_normal((6, WIDTH)).astype(np.float32))
    store.add(["g5", "g0", "g1"], vectors[[5, 0, 1]], ["5.jpg", None, "1.jpg"], [METADATA[at] for at in (5, 0, 1)])
    store.add(["g2", "g3"], vectors[2:4], metadata=[METADATA[2], {}])
    store.remove(["g1"])
    store.add(["g4"], vectors[4:5], ["ü.jpg"])
    return store


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_BLOCK_NUMBERS", 2 * WIDTH)


def expected(store: VectorStore) -> tuple[list[str], np.ndarray]:
    numbers = np.flatnonzero(store.alive)
    return [store.ids[row] for row in numbers], store.take(numbers)


def check(table: pyarrow.Table, store: VectorStore) -> None:
    """Assert that a table holds all of a store."""
    ids, vectors = expected(store)
    assert table.column_names == ["id", "vector", "source", "price", "tags", "kept_source"]
    assert table["id"].to_pylist() == ids == [f"g{row}" for row in ROWS]
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), WIDTH)
    found = np.stack(table["vector"].to_numpy())
    assert (found == vectors).all() and np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    assert table["source"].to_pylist() == ["5.jpg", None, None, None, "ü.jpg"]
    assert table["price"].to_pylist() == [5.0, 0.0, 2.0, None, None]
    assert table["tags"].to_pylist() == [["a", "b"], None, ["a", "b"], None, None]
    assert table["kept_source"].to_pylist() == ["s5", "s0", "s2", None, None]
    about = json.loads(table.schema.metadata[b"mllm_embed"])
    said = {"rows": 5, "dimension": WIDTH, "stored as": str(store.dtype), "made_by": {"model": "made", "n": [1]}}
    assert about == said


def test_parquet(store: VectorStore, tmp_path: Path) -> None:
    assert export(store, "parquet", tmp_path / "x.parquet") == 5
    check(pq.read_table(tmp_path / "x.parquet"), store)
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3, "block by block"


def test_lance(store: VectorStore, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    assert export(store, "lance", tmp_path / "x.lance") == 5
    data = lance.dataset(str(tmp_path / "x.lance"))
    check(data.to_table(), store)
    ids, vectors = expected(store)
    nearest = data.to_table(nearest={"column": "vector", "q": vectors[3], "k": 1})
    assert nearest["id"].to_pylist() == [ids[3]]


def test_npy(store: VectorStore, tmp_path: Path) -> None:
    assert export(store, "npy", tmp_path / "x") == 5
    ids, vectors = expected(store)
    found = np.load(tmp_path / "x/vectors.npy", allow_pickle=False)
    assert found.dtype == np.float32 and (found == vectors).all()
    assert json.loads((tmp_path / "x/ids.json").read_text()) == ids
    whole = pq.read_table(tmp_path / "x/columns.parquet")
    check(whole.add_column(1, "vector", pyarrow.FixedSizeListArray.from_arrays(found.ravel(), WIDTH)), store)
    assert json.loads((tmp_path / "x/provenance.json").read_text())["made_by"] == store.provenance


def test_a_store_that_keeps_nothing_is_exported(tmp_path: Path) -> None:
    store = VectorStore.create(tmp_path / "s", WIDTH)
    with pytest.raises(DataError, match="has no rows"):
        export(store, "parquet", tmp_path / "x.parquet")
    store.add(["a"], np.eye(WIDTH, dtype=np.float32)[:1])
    for kind in KINDS:
        assert export(store, kind, tmp_path / kind) == 1
    assert pq.read_table(tmp_path / "parquet").column_names == ["id", "vector", "source"]


def test_the_command(store: VectorStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "x.parquet")
    assert main(["export", str(store.folder), "--to", "parquet", "--output", output]) == 0
    assert capsys.readouterr().out == f"wrote 5 rows to {output}\n"
    before = Path(output).read_bytes()
    assert main(["export", str(store.folder), "--to", "npy", "--output", output]) == 2
    assert "is there already: give another output" in capsys.readouterr().err
    assert Path(output).read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_an_export_that_fails(store: VectorStore, tmp_path: Path, kind: str) -> None:
    vectors = store.folder / "shards/000001.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="000001.npy"):
        export(VectorStore(store.folder), kind, tmp_path / "x")
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(ConfigError, match="there is no export to 'csv': give one of parquet, lance, npy"):
        export(store, "csv", tmp_path / "x")


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C be heard, which a process in a shell's background ignores."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("ctrl_c")
def test_nobody_reads_on_when_an_export_to_lance_is_interrupted(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lance")
    whole, left = rows_module.LivingRows.batches, Event()

    def interrupted(rows: rows_module.LivingRows) -> Iterator[pyarrow.RecordBatch]:
        interrupt_main()
        time.sleep(0.3)  # for the main thread to go on meanwhile, if it does not wait
        left.set()
        yield from whole(rows)

    monkeypatch.setattr(rows_module.LivingRows, "batches", interrupted)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export(store, "lance", tmp_path / "x")
    assert left.is_set() and sorted(tmp_path.iterdir()) == before


def test_names_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("lance")
    store, vectors = VectorStore.create(tmp_path / "s", WIDTH), np.eye(WIDTH, dtype=np.float32)
    store.add(["a"], vectors[:1], metadata=[{"a.b": 1}])
    with pytest.raises(ConfigError, match=r'no columns with a dot in their name, as "a\.b": export to parquet'):
        export(store, "lance", tmp_path / "x")
    store.add(["b"], vectors[1:2], metadata=[{"vector": 1, "kept_vector": 2}])
    with pytest.raises(DataError, match='two columns that would both be "kept_vector"'):
        export(store, "parquet", tmp_path / "x")
