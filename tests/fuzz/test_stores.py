"""A damaged store answers as the whole one does, or says what is wrong with it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz.tools import store_forms
from fuzz.tools.damages import DAMAGES, MISFITS, TEXTS, damaged, doubled_key, dropped, misfit, places, shown
from fuzz.tools.harness import RIGHT, TOLD, Case, Told, attempt, expect, plain, sift
from fuzz.tools.store_forms import vectors_of
from mllm_embed import VectorStore
from mllm_embed.index.build import build_index
from mllm_embed.index.faiss_index import Index
from mllm_embed.store.gallery import StoreGallery
from mllm_embed.store.several.gallery import MultiGallery, keeps_several
from mllm_embed.vectors.multi import MultiVectors

SIZE = 16


def _unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, SIZE)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_store(folder: Path, dtype: str = "float32", rows: int = 7) -> VectorStore:
    """Make a store of three shards, of which two rows are removed, and two equally large."""
    store = VectorStore.create(folder, SIZE, dtype=dtype, provenance={"base": "b", "prompts": "p"})
    for name, seed in zip("abc", range(3), strict=True):
        count = rows if name != "c" else 3
        store.add([f"{name}{at}" for at in range(count)], _unit(count, seed), [f"/p/{at}.jpg" for at in range(count)])
    store.remove(["a1", "b0"])
    return store


def answers(store: VectorStore, gallery: Any = None) -> str:
    """Return all that a store says, as text to compare."""
    queries: Any = _unit(4, 9)
    if keeps_several(store):
        gallery, queries = MultiGallery(store), MultiVectors(queries, np.array([0, 1, 2, 3, 4]))
    gallery, names = gallery or StoreGallery(store), sorted(store.living)
    rows = np.concatenate([np.frombuffer(row, np.float32) for row in vectors_of(store)])
    said = {
        "ids": store.ids,
        "sources": store.sources,
        "living": names,
        "alive": store.alive.tolist(),
        "rows": np.round(rows.astype(float), 6).tolist(),
        "lost": store.lost,
        "provenance": dict(store.provenance),
        "nearest": [[(name, round(float(score), 5)) for name, score in found] for found in gallery.nearest(queries, 5)],
        "some": [
            [(name, round(float(score), 5)) for name, score in found]
            for found in gallery.nearest(queries, 2, allow=names[:4], exclude=[names[:1]] * 4)
        ],
    }
    return plain(said)


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder that are not hidden, in order."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def _number(seed: int, among: list[Path]) -> Path:
    return among[seed % len(among)]


def _bytes_case(damage: str, seed: int) -> Callable[[Path], str]:
    def apply(folder: Path) -> str:
        path = _number(seed, _files(folder))
        path.write_bytes(damaged(path.read_bytes(), damage, seed))
        return path.name

    return apply


def _json_case(kind: str, seed: int) -> Callable[[Path], str]:
    def apply(folder: Path) -> str:
        path = _number(seed, [path for path in _files(folder) if path.suffix == ".json"])
        tree = json.loads(path.read_text())
        if kind == "a key twice":
            text, where = doubled_key(tree, seed)
        else:
            tree, where = dropped(tree, seed) if kind == "a key less" else misfit(tree, kind, seed)
            text = json.dumps(tree)
        path.write_text(text)
        return f"{path.name} {where}"

    return apply


def _lost(seed: int) -> Callable[[Path], str]:
    def apply(folder: Path) -> str:
        path = _number(seed, _files(folder))
        path.unlink()
        return path.name

    return apply


def _swapped(seed: int) -> Callable[[Path], str]:
    """Two files of one suffix change places."""

    def apply(folder: Path) -> str:
        files = _files(folder)
        one = _number(seed, files)
        other = _number(seed // len(files), [path for path in files if path.suffix == one.suffix])
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return f"{one.name} and {other.name}"

    return apply


def _lists(seed: int) -> Callable[[Path], str]:
    """A list in a JSON file loses an entry, gets one twice, or two change places."""

    def apply(folder: Path) -> str:
        rng = random.Random(seed)
        lists = []
        for path in _files(folder):
            tree = json.loads(path.read_text()) if path.suffix == ".json" else {}
            lists += [(path, way) for way in places(tree) if isinstance(_at(tree, way), list) and _at(tree, way)]
        if not lists:
            return "nothing"
        path, way = lists[seed % len(lists)]
        tree = json.loads(path.read_text())
        entries = _at(tree, way)
        edit = rng.choice(["less", "twice", "swapped"] if len(entries) > 1 else ["less", "twice"])
        at = rng.randrange(len(entries))
        if edit == "less":
            del entries[at]
        elif edit == "twice":
            entries.insert(at, entries[at])
        else:
            entries[at - 1], entries[at] = entries[at], entries[at - 1]
        path.write_text(json.dumps(tree))
        return f"{path.name} {shown(way)}, an entry {edit}"

    return apply


def _at(tree: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        tree = tree[key]
    return tree


def _headers(seed: int) -> Callable[[Path], str]:
    """The header of a .npy file claims another type or shape of the same size."""
    claims = [
        ("'<f4'", "'>f4'"), ("'<f4'", "'<i4'"), ("'<f4'", "'<u4'"), ("False", "True "), ("'<i8'", "'<f8'"),
        ("'<i8'", "'>i8'"), ("(7, 16)", "(16, 7)"), ("(7, 16)", "(14, 8)"), ("(3, 16)", "(2, 16)"), ("(2,)", "(1,)"),
        ("'<f4'", "'|O '"), ("descr", "desc_"),
    ]  # fmt: skip

    def apply(folder: Path) -> str:
        old, new = (text.encode() for text in claims[seed % len(claims)])
        for path in _files(folder):
            data = path.read_bytes()
            if path.suffix == ".npy" and old in data[:128]:
                path.write_bytes(data.replace(old, new, 1))
                return f"{path.name} {old.decode()} for {new.decode()}"
        return "nothing"

    return apply


def cases(what: str, bytes_seeds: int, json_seeds: int, more: int) -> list[Case]:
    """Return damages of a folder of files, whatever they are called."""
    found = []
    for damage in (*DAMAGES, *TEXTS):
        found += [Case(f"{what}, {damage} ({seed})", _bytes_case(damage, seed)) for seed in range(bytes_seeds)]
    for kind in (*MISFITS, "a key less", "a key twice"):
        found += [Case(f"{what}, JSON, {kind} ({seed})", _json_case(kind, seed)) for seed in range(json_seeds)]
    for name, damage in (("lost", _lost), ("swapped", _swapped), ("lists", _lists), ("headers", _headers)):
        found += [Case(f"{what}, {name} ({seed})", damage(seed)) for seed in range(more)]
    return found


STORE_CASES = cases("store", 8, 4, 20)


@dataclass(frozen=True)
class Whole:
    """A store that is whole, and what it says."""

    folder: Path
    says: str


@pytest.mark.slow
def test_damaged_stores(tmp_path: Path) -> None:
    made = [make_store(tmp_path / dtype, dtype) for dtype in ("float32", "int8")]
    made += [
        store_forms.make_store(tmp_path / form, form, "float16", SIZE, (7, 7, 3)) for form in ("several", "lexical")
    ]
    wholes = [Whole(store.folder, answers(VectorStore.open(store.folder))) for store in made]

    def judge(case: Case) -> str:
        whole = wholes[int(case.name.rsplit("(", 1)[1][:-1]) % len(wholes)]
        spoilt = tmp_path / "spoilt"
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(whole.folder, spoilt)
        where = case.what(spoilt)
        found = attempt(lambda: answers(VectorStore.open(spoilt)))
        if isinstance(found, Told):
            return TOLD
        expect(found == whole.says, f"{where}: {_difference(whole.says, found)}")
        if whole.folder.name in store_forms.MODELS:  # to which vectors alone cannot be added
            return RIGHT
        grown = attempt(lambda: _grown(spoilt))
        if isinstance(grown, Told):
            return TOLD
        store = VectorStore.open(whole.folder)
        expect(grown[0] == [*store.ids, "new"] and grown[1], f"{where}: a row that is added does not stand at the end")
        return RIGHT

    sift("stores", STORE_CASES, judge)


def _grown(folder: Path) -> tuple[list[str], bool]:
    """Add a row to a store; return its ids then, and whether that row is found."""
    vector = _unit(1, 99)
    VectorStore.open(folder).add(["new"], vector)
    store = VectorStore.open(folder)
    return store.ids, StoreGallery(store).nearest(vector, 1)[0][0][0] == "new"


def _difference(whole: str, found: str) -> str:
    right, wrong = json.loads(whole), json.loads(found)
    return f"other {', '.join(key for key in right if right[key] != wrong.get(key))}"


KINDS = ("flat", "rabitq", "hnsw", "ivf-disk", "learned-signs", "bebr")
INDEX_CASES = [
    Case(f"{kind}, {case.name}", (kind, kind, case.what)) for kind in KINDS for case in cases("index", 1, 2, 2)
]
INDEX_CASES += [
    Case(f"{kind} of a {case.name}", (kind, "store", case.what))
    for kind, seeds in (("flat", 2), ("hnsw", 1))
    for case in cases("store", seeds, 1, 4)
]


@pytest.mark.slow
def test_damaged_indexes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    store = make_store(whole / "store", rows=300)
    says = {}
    for kind in KINDS:
        build_index(store, whole / kind, kind, show_progress=False)
        says[kind] = answers(store, Index.open(whole / kind))

    def judge(case: Case) -> str:
        kind, damaged_folder, damage = case.what
        spoilt = tmp_path / "spoilt"
        shutil.rmtree(spoilt, ignore_errors=True)
        for name in ("store", kind):
            shutil.copytree(whole / name, spoilt / name)
        where = damage(spoilt / damaged_folder)

        def opened() -> str:
            index = Index.open(spoilt / kind)
            return answers(index.store, index)

        found = attempt(opened)
        if isinstance(found, Told):
            return TOLD
        expect(found == says[kind], f"{where}: {_difference(says[kind], found)}")
        return RIGHT

    sift("indexes", INDEX_CASES, judge)


CASES = [*STORE_CASES, *INDEX_CASES]
