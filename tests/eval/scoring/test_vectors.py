"""Vectors on disk: what is read is what was written, in any order, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.scoring.metrics import recall
from eval.scoring.score import Vectors, score
from eval.scoring.suite import Suite, Task, View
from eval.scoring.vectors import read_vectors, write_vectors
from mllm_embed.errors import DataError
from mllm_embed.types import Document


def task(name: str) -> Task:
    ids = [f"{name}g{at}" for at in range(5)]
    queries = [f"{name}q{at}" for at in range(3)]
    asked = [(Document(text=word),) for word in queries]
    right = [[0], [1], [2]]
    return Task(name, ids, [Document(text=word) for word in ids], queries, asked, (View(recall((1,)), right),))


@pytest.fixture
def suite() -> Suite:
    return Suite("made", "", {}, (task("a"), task("b")))


@pytest.fixture
def vectors() -> dict[str, Vectors]:
    rng = np.random.default_rng(0)
    both = {}
    for name in ("a", "b"):
        gallery, queries = (rng.standard_normal((count, 4)).astype(np.float32) for count in (5, 3))
        both[name] = Vectors(gallery, {"text": queries})
    return both


@pytest.fixture
def folder(suite: Suite, vectors: dict[str, Vectors], tmp_path: Path) -> Path:
    write_vectors(tmp_path / "v", suite, vectors)
    return tmp_path / "v"


def test_what_was_written_is_read(folder: Path, suite: Suite, vectors: dict[str, Vectors]) -> None:
    read = read_vectors(folder, suite)
    for name, made in vectors.items():
        assert (read[name].gallery == made.gallery).all()
        assert (read[name].rows["text"] == made.rows["text"]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_rows_may_come_in_any_order_and_float_type(folder: Path, suite: Suite, dtype: type) -> None:
    gallery = np.load(folder / "a/gallery.npy")
    names = json.loads((folder / "a/gallery_ids.json").read_text())
    (folder / "a/gallery_ids.json").write_text(json.dumps(names[::-1]))
    np.save(folder / "a/gallery.npy", gallery[::-1].astype(dtype))
    after = read_vectors(folder, suite)["a"].gallery
    assert after.dtype == np.float32 and (after == gallery.astype(dtype).astype(np.float32)).all()


def test_scoring_needs_no_norms(folder: Path, suite: Suite) -> None:
    read = read_vectors(folder, suite)
    longer = {name: Vectors(made.gallery, {"text": 3 * made.rows["text"]}) for name, made in read.items()}
    assert score(suite, read).tasks == score(suite, longer).tasks


def spoil(folder: Path, what: str) -> None:
    gallery, names = np.load(folder / "gallery.npy"), json.loads((folder / "gallery_ids.json").read_text())
    match what:
        case "nan":
            gallery[3, 1] = np.nan
        case "zeros":
            gallery[4] = 0
        case "zero query":
            queries = np.load(folder / "queries.npy")
            queries[1] = -0.0
            np.save(folder / "queries.npy", queries)
        case "huge":
            gallery = gallery.astype(np.float64)
            gallery[2, 0] = 1e300
        case "narrow":
            gallery = gallery[:, :3]
        case "short":
            gallery = gallery[:4]
        case "flat":
            gallery = gallery.ravel()
        case "integers":
            gallery = gallery.astype(np.int64)
        case "twice":
            names[1] = names[0]
        case "unknown":
            names[2] = "stranger"
        case "missing":
            gallery, names = gallery[:-2], names[:-2]
        case "numbers":
            names = [1, 2, 3, 4, 5]
    np.save(folder / "gallery.npy", gallery)
    (folder / "gallery_ids.json").write_text(json.dumps(names))
    match what:
        case "truncated":
            (folder / "gallery.npy").write_bytes((folder / "gallery.npy").read_bytes()[:-8])
        case "pickle":
            np.save(folder / "gallery.npy", np.array([{}], dtype=object), allow_pickle=True)
        case "archive":
            np.savez(folder / "gallery.npz", gallery=gallery)
            (folder / "gallery.npz").rename(folder / "gallery.npy")
        case "no archive":
            (folder / "gallery.npy").write_bytes(b"PK\x03\x04 and then no archive")
        case "empty":
            (folder / "gallery.npy").write_bytes(b"")
        case "open bracket":
            content = (folder / "gallery.npy").read_bytes()
            (folder / "gallery.npy").write_bytes(content.replace(b"(5, 4), }", b"(5, 4 , }"))
        case "too many rows":
            content = (folder / "gallery.npy").read_bytes()
            (folder / "gallery.npy").write_bytes(
                content.replace(b"(5, 4), }" + b" " * 20, b"(5" + b"0" * 20 + b", 4), }")
            )
        case "deep":
            (folder / "gallery_ids.json").write_text("[" * 100_000)
        case "no json":
            (folder / "gallery_ids.json").write_text("[")
        case "absent":
            (folder / "gallery.npy").unlink()
        case "no ids":
            (folder / "gallery_ids.json").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", 'the vector of "bg3" holds NaN'),
        ("zeros", 'gallery.npy: the vector of "bg4" is all zeros, near to nothing; make it anew'),
        ("zero query", r'queries.npy: the vector of "\w+" is all zeros'),
        ("huge", 'the vector of "bg2" holds NaN, or values too large for float32'),
        ("archive", "gallery.npy is not a whole .npy file"),
        ("no archive", "gallery.npy is not a whole .npy file"),
        ("empty", "gallery.npy is not a whole .npy file"),
        ("open bracket", "gallery.npy is not a whole .npy file"),
        ("too many rows", "gallery.npy is not a whole .npy file"),
        ("deep", "gallery_ids.json is not JSON"),
        ("narrow", "gallery.npy has 3 dimensions and queries.npy 4"),
        ("short", "has 4 rows and gallery_ids.json 5 ids"),
        ("flat", "one vector a row, not float32 of shape"),
        ("integers", "must hold floats"),
        ("twice", 'the id "bg0" stands twice'),
        ("unknown", 'the id "stranger" is unknown to the benchmark, whose ids are like "bg0"'),
        ("missing", '2 of 5 ids are missing, the first is "bg3"'),
        ("numbers", "must be a JSON list of strings"),
        ("truncated", "gallery.npy is not a whole .npy file"),
        ("pickle", "gallery.npy is not a whole .npy file"),
        ("no json", "gallery_ids.json is not JSON"),
        ("absent", "gallery.npy is missing"),
        ("no ids", "gallery_ids.json is missing"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, suite: Suite, what: str, message: str) -> None:
    spoil(folder / "b", what)
    with pytest.raises(DataError, match=message):
        read_vectors(folder, suite)


def test_a_folder_that_is_not_there(suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is missing"):
        read_vectors(tmp_path / "nowhere", suite)


def test_vectors_that_do_not_fit_the_benchmark_are_refused(suite: Suite, vectors: dict[str, Vectors]) -> None:
    with pytest.raises(DataError, match="no vectors of task 'b'; there are of a"):
        score(suite, {"a": vectors["a"]})
    long = Vectors(np.vstack([vectors["b"].gallery] * 2), vectors["b"].rows)
    with pytest.raises(DataError, match="task 'b': 10 gallery vectors for 5 entries"):
        score(suite, {**vectors, "b": long})
    short = Vectors(vectors["b"].gallery, {"text": vectors["b"].rows["text"][:2]})
    with pytest.raises(DataError, match="task 'b': 2 text vectors for 3 entries"):
        score(suite, {**vectors, "b": short})


def test_a_gallery_in_order_is_not_read_into_memory_a_second_time(folder: Path, suite: Suite) -> None:
    assert isinstance(read_vectors(folder, suite)["a"].gallery, np.memmap)
