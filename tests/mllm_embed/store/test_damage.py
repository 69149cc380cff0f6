"""A store that is not what was written is refused in one sentence: never other rows, vectors or ids without a word."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fuzz.tools.store_forms import SIZE, make_store, unit, vectors_of
from mllm_embed import MLLMEmbedder
from mllm_embed.cli import main
from mllm_embed.errors import DataError
from mllm_embed.locks import folder_lock
from mllm_embed.store.check import check_store
from mllm_embed.store.vector_store import VectorStore
from rows_of_text import encode, write_rows


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of three shards, of which the first two are of one size, with two removed rows."""
    return make_store(tmp_path / "store").folder


def content(folder: Path) -> dict[str, tuple[str | None, bytes, object]]:
    """Return all that a store answers, as a reader sees it."""
    read = VectorStore.open(folder)
    rows = vectors_of(read)
    if read.shards[0].vectors is None:
        assert np.array_equal(read.rows(0, len(read)), read.take(np.arange(len(read))))
    values = [{}] * len(read) if read.columns is None else read.columns.rows(range(len(read)))
    place = {name: read.position(name) for name in read.living}
    return {name: (read.sources[row], rows[row], values[row]) for name, row in place.items()}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def manifest(change: Callable[[dict], object]) -> Callable[[Path], object]:
    return lambda store: edit(store / "manifest.json", change)


def record(change: Callable[[dict], object], name: str = "000000") -> Callable[[Path], object]:
    return lambda store: edit(store / f"shards/{name}.json", change)


def removed(values: np.ndarray) -> Callable[[Path], object]:
    return lambda store: np.save(store / "removed.npy", values)


def bytes_of(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda store: (store / name).write_bytes(data)


def cut(name: str, left: float) -> Callable[[Path], object]:
    def damage(store: Path) -> None:
        data = (store / name).read_bytes()
        (store / name).write_bytes(data[: int(left * len(data))])

    return damage


HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (2,), "
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of a vector": (lambda store: flip(store / "shards/000001.npy", -5), "000001.npy is not what was written"),
    "a sign": (lambda store: flip(store / "shards/000000.npy", 131, 7), "000000.npy is not what was written"),
    "two shards swapped": (
        lambda store: swap(store / "shards/000000.npy", store / "shards/000001.npy"), "000000.npy is not what was"),
    "two records swapped": (
        lambda store: swap(store / "shards/000000.json", store / "shards/000001.json"), "000000.json is not what was"),
    "a vectors' file gone": (lambda store: (store / "shards/000002.npy").unlink(), "000002.npy is missing"),
    "a record gone": (lambda store: (store / "shards/000002.json").unlink(), "000002.json is missing"),
    "an empty vectors' file": (bytes_of("shards/000001.npy", b""), "000001.npy is damaged"),
    "half a vectors' file": (cut("shards/000001.npy", 0.5), "000001.npy is damaged"),
    "pickled vectors": (
        lambda store: np.save(store / "shards/000001.npy", np.array([{}]), allow_pickle=True), "000001.npy is "),
    "other numbers": (
        lambda store: np.save(store / "shards/000001.npy", unit(4, 1).astype("f2")), "is float16 of shape"),
    "turned vectors": (
        lambda store: np.save(store / "shards/000001.npy", np.asfortranarray(unit(4, 1))), "000001.npy is not what"),
    "an id dropped": (record(lambda value: value["ids"].pop(1)), "000000.json is damaged .sources"),
    "an id and its place dropped": (
        record(lambda value: (value["ids"].pop(1), value["sources"].pop(1))), "000000.json is not what was written"),
    "ids in another order": (record(lambda value: value["ids"].reverse()), "000000.json is not what was written"),
    "an id that is a number": (record(lambda value: value["ids"].__setitem__(0, 7)), r"000000.json is damaged \(ids"),
    "an id that is null": (record(lambda value: value["ids"].__setitem__(0, None)), r"000000.json is damaged \(ids"),
    "an id twice": (record(lambda value: value["ids"].__setitem__(0, "0-2")), "000000.json is not what was written"),
    "ids that are a text": (record(lambda value: value.update(ids="abcd")), r"000000.json is damaged \(ids"),
    "an entry more": (record(lambda value: value.update(more=1)), "000000.json is damaged"),
    "an entry less": (record(lambda value: value.pop("sha256")), "000000.json is damaged"),
    "a record that is a list": (bytes_of("shards/000000.json", b"[1]"), "000000.json is damaged"),
    "a record that is a number": (bytes_of("shards/000000.json", b"1"), "000000.json is damaged"),
    "a deep record": (bytes_of("shards/000000.json", b"[" * 100_000), "000000.json is damaged"),
    "a record of no text": (bytes_of("shards/000000.json", b"\xff\xfe\x00"), "000000.json is damaged"),
    "half a record": (cut("shards/000000.json", 0.5), "000000.json is damaged"),
    "lost that is null": (record(lambda value: value.update(lost=None)), r"000000.json is damaged \(lost"),
    "origins that are numbers": (record(lambda value: value.update(origins=[1])), "000000.json is damaged"),
    "a shard left out": (manifest(lambda value: value["shards"].pop(1)), "manifest.json is damaged .it is not what"),
    "a shard twice": (
        manifest(lambda value: value["shards"].append(value["shards"][0])), "is damaged .a shard is named twice"),
    "shards in another order": (manifest(lambda value: value["shards"].reverse()), "manifest.json is damaged"),
    "other counts": (
        manifest(lambda value: (value["shards"][0].update(rows=3), value["shards"][1].update(rows=5))), "is damaged"),
    "rows that are a text": (
        manifest(lambda value: value["shards"][0].update(rows="4")), r"manifest.json is damaged \(shards"),
    "rows below none": (manifest(lambda value: value["shards"][0].update(rows=-1)), r"is damaged \(shards"),
    "a name that leads out": (
        manifest(lambda value: value["shards"][0].update(name="../../x")), r"manifest.json is damaged \(shards"),
    "a shard that is null": (manifest(lambda value: value["shards"].append(None)), r"is damaged \(shards"),
    "an unknown key": (manifest(lambda value: value["shards"][0].update(more=1)), r"is damaged \(shards"),
    "another dimension": (manifest(lambda value: value.update(dimension=4)), "manifest.json is damaged"),
    "a dimension that is true": (manifest(lambda value: value.update(dimension=True)), r"is damaged \(dimension"),
    "no dimension": (manifest(lambda value: value.pop("dimension")), r"is damaged \(dimension"),
    "another dtype": (manifest(lambda value: value.update(dtype="float16")), "manifest.json is damaged"),
    "an unknown dtype": (manifest(lambda value: value.update(dtype="float8")), r"is damaged \(dtype"),
    "made by another": (manifest(lambda value: value.update(made_by={"base": "c"})), "manifest.json is damaged"),
    "made by nothing": (manifest(lambda value: value.update(made_by=None)), r"is damaged \(made_by"),
    "data that is a number": (manifest(lambda value: value.update(data=1)), r"is damaged \(data"),
    "no checksum": (manifest(lambda value: value.pop("checksum")), "manifest.json is damaged"),
    "the former format": (manifest(lambda value: value.update(format="mllm_embed vectors 1")), r"is damaged \(format"),
    "no format": (manifest(lambda value: value.pop("format")), "manifest.json has the format None"),
    "nothing removed": (manifest(lambda value: value["removed"].update(rows=0)), "manifest.json is damaged"),
    "removed that is null": (manifest(lambda value: value.update(removed=None)), r"is damaged \(removed"),
    "an empty manifest": (bytes_of("manifest.json", b""), "manifest.json is not JSON"),
    "half a manifest": (cut("manifest.json", 0.6), "manifest.json is not JSON"),
    "a manifest that is a list": (bytes_of("manifest.json", b"[]"), "manifest.json has the format None"),
    "a manifest of no text": (bytes_of("manifest.json", b"\xff\xfe"), "manifest.json is not JSON"),
    "removed rows gone": (
        lambda store: (store / "removed.npy").unlink(), "removed.npy is missing, without which 2 removed rows"),
    "other removed rows": (removed(np.array([6, 2])), "removed.npy is not what was written"),
    "removed rows in another order": (removed(np.array([1, 6])), "removed.npy is not what was written"),
    "fewer removed rows": (removed(np.array([6])), "removed.npy is not what was written"),
    "removed rows of another type": (removed(np.array([6, 1], np.int32)), "removed.npy holds no row numbers"),
    "removed rows in a table": (removed(np.array([[6, 1]])), "removed.npy holds no row numbers"),
    "empty removed rows": (bytes_of("removed.npy", b""), "removed.npy is damaged"),
    "half of removed rows": (cut("removed.npy", 0.95), "removed.npy is damaged"),
    "a header cut": (bytes_of("removed.npy", HEADER + b"\n" + b"\0" * 80), "removed.npy is damaged"),
    "a header that is no Python": (
        bytes_of("removed.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': ((((((" + b"\0" * 80), "npy is damaged"),
    "a header of a huge shape": (
        bytes_of("removed.npy", HEADER.replace(b"(2,)", b"(10**18,)") + b"}".ljust(40) + b"\n"), "npy is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_named(store: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = DAMAGES[what]
    damage(store)
    with pytest.raises(DataError, match=words) as caught:
        content(store)
    assert "\n" not in str(caught.value)
    assert main(["check", str(store)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {store}") and said.err.count("\n") == 1
    with pytest.raises(DataError):
        VectorStore.open(store).verify()


OF_FORMS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "half of several": ("several", cut("shards/000001.npy", 0.9), "000001.npy is damaged"),
    "several swapped": (
        "several", lambda store: swap(store / "shards/000000.npy", store / "shards/000001.npy"), "000000.npy is"),
    "a vector moved to the next row": (
        "several", record(lambda value: value.update(counts=[2, 1, 3, 1])), "000000.json is not what was written"),
    "a row without a vector": ("several", record(lambda value: value.update(counts=[3, 0, 3, 1])), r"damaged \(counts"),
    "no counts": ("several", record(lambda value: value.pop("counts")), "000000.json is not what was written"),
    "fewer vectors": (
        "several", manifest(lambda value: value["shards"][0].update(vectors=6)), "manifest.json is damaged"),
    "no several": ("several", manifest(lambda value: value["shards"][0].pop("vectors")), "manifest.json is damaged"),
    "a bit of a word": (
        "lexical", lambda store: flip(store / "shards/000001.lexical.npz", 300), "000001.lexical.npz is not what"),
    "half of the words": ("lexical", cut("shards/000001.lexical.npz", 0.5), "000001.lexical.npz is not what was"),
    "words gone": (
        "lexical", lambda store: (store / "shards/000002.lexical.npz").unlink(), "000002.lexical.npz is missing"),
    "words swapped": (
        "lexical",
        lambda store: swap(store / "shards/000000.lexical.npz", store / "shards/000001.lexical.npz"),
        "000000.lexical.npz is not what was written"),
    "words forgotten": ("lexical", record(lambda value: value.pop("lexical")), "000000.json is not what was written"),
}  # fmt: skip


@pytest.mark.parametrize("what", OF_FORMS)
def test_damage_of_several_and_of_words_is_named(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    form, damage, words = OF_FORMS[what]
    store = make_store(tmp_path / "store", form).folder
    assert not check_store(store, False).damages
    damage(store)
    with pytest.raises(DataError, match=words) as caught:
        content(store)
    assert "\n" not in str(caught.value)
    assert main(["check", str(store)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {store}")
    with pytest.raises(DataError):
        VectorStore.open(store).verify()


@pytest.mark.parametrize(("form", "flips"), [("dense", 300), ("several", 100), ("lexical", 100)])
def test_no_bit_of_a_store_can_change_unseen(tmp_path: Path, form: str, flips: int) -> None:
    store = make_store(tmp_path / "store", form).folder
    if form == "dense":
        VectorStore(store).add(["kept"], unit(1, 9), metadata=[{"price": 3, "tags": ["a", "b"]}])
    before, rng = content(store), np.random.default_rng(0)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    refused = 0
    for number in range(flips):
        path = files[number % len(files)]
        whole = path.read_bytes()
        flip(path, int(rng.integers(len(whole))), int(rng.integers(8)))
        try:
            assert content(store) == before, path  # white space between values, say
        except DataError as error:
            assert "\n" not in str(error) and str(store) in str(error)
            refused += 1
        path.write_bytes(whole)
    assert refused > 280 / 300 * flips and content(store) == before


def test_a_damaged_store_is_refused_by_every_command(
    store: Path, tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "x", "text": "a shoe"}')
    DAMAGES["a shard left out"][0](store)
    before = (store / "manifest.json").read_bytes()
    for command in (
        ["remove", str(store), "0-0"],
        ["index", str(store), "--kind", "flat"],
        ["search", "--gallery", str(store), "--model", str(tiny_llava), "--instruction", "x"],
        ["encode", str(tmp_path / "rows.jsonl"), "--output", str(store), "--model", str(tiny_llava)],
    ):
        assert main(command) == 2, command
        assert "manifest.json is damaged (it is not what was written)" in capsys.readouterr().err
    assert (store / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("what", ["a vectors' file gone", "an empty vectors' file"])
def test_nothing_is_added_to_a_store_that_has_lost_vectors(embedder: MLLMEmbedder, tmp_path: Path, what: str) -> None:
    source = write_rows(tmp_path / "a.jsonl", {str(row): f"row {row}" for row in range(9)})
    encode(embedder, source, tmp_path / "s")
    DAMAGES[what][0](tmp_path / "s")
    with pytest.raises(DataError, match=DAMAGES[what][1]):
        encode(embedder, source, tmp_path / "s")


def test_vectors_are_compared_once_and_not_at_all_where_that_is_asked(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(store / "shards/000001.npy", -1)
    free = VectorStore.open(store, verify=False)
    assert len(free.rows(0, 10)) == 10
    with pytest.raises(DataError, match="not what was written"):
        free.verify()
    checked = VectorStore.open(store)
    assert len(checked.rows(0, 4)) == 4 and len(checked.rows(8, 10)) == 2  # the other shards are right
    for _ in range(2):
        with pytest.raises(DataError, match="000001.npy is not what was written"):
            checked.rows(3, 5)


def test_shards_that_the_manifest_does_not_name_are_told(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = (store / "manifest.json").read_bytes()
    VectorStore.open(store).add(["later"], unit(1, 5))
    (store / "manifest.json").write_bytes(older)
    with pytest.warns(UserWarning, match="has 1 shards that its manifest does not name: .*restore"):
        VectorStore.open(store)
    assert main(["check", str(store)]) == 2
    assert "1 shards that its manifest does not name (000003)" in capsys.readouterr().err
    with folder_lock(store), warnings.catch_warnings():  # another process adds them just now
        warnings.simplefilter("error")
        VectorStore.open(store)


@pytest.mark.skipif(os.name == "nt", reason="folders that cannot be written to")
def test_a_store_that_cannot_be_written_to_is_read(store: Path) -> None:
    before = content(store)
    for path in (store, store / "shards"):
        path.chmod(0o555)
    try:
        assert content(store) == before and not check_store(store, False).damages
    finally:
        for path in (store, store / "shards"):
            path.chmod(0o755)


def test_check_says_what_there_is(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(store), "--kind", "flat", "--output", str(tmp_path / "i")]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "i")]) == 0
    assert f"{store}: 10 rows in 3 shards, 2 of which are removed, all as they were" in capsys.readouterr().out
    for number in range(2):
        flip(store / f"shards/00000{number}.npy", -1)
    assert main(["check", str(tmp_path / "i")]) == 2
    said = capsys.readouterr()
    assert said.out.count("damaged: ") == 2 and "is damaged in 2 places: restore it, or encode again" in said.err
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no store and no index" in capsys.readouterr().err
    shutil.rmtree(store)
    assert main(["check", str(tmp_path / "i")]) == 2
    assert f"{store}, which is not there" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_empty_shards_and_emptied_stores_are_whole(tmp_path: Path, dtype: str) -> None:
    store = VectorStore.create(tmp_path / "s", SIZE, dtype=dtype)
    store.add([], np.empty((0, SIZE), np.float32))
    store.add(["a"], unit(1, 0))
    store.remove(["a", "a"])
    store.remove([])
    read = VectorStore.open(tmp_path / "s")
    read.verify()
    assert (len(read), list(read.living), check_store(tmp_path / "s", False).removed) == (1, [], 1)
