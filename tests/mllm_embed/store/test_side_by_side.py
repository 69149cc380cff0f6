"""Any mixture of encode, add, remove and readers on one store ends as if they had come one after the other."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError, DataError, MLLMEmbedError
from mllm_embed.index.build import build_index
from mllm_embed.index.faiss_index import Index
from mllm_embed.store.vector_store import VectorStore
from rows_of_text import Vectors, check_rows, encode, write_rows


class Killed(BaseException):
    pass


@pytest.fixture
def meanwhile(embedder: MLLMEmbedder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have something done once while an encode embeds its shard of this number."""

    def let(what: Callable[[], object], shard: int = 1) -> None:
        calls: list[int] = []
        execute = embedder.execute

        def interrupted(*given, **options):
            calls.append(1)
            if len(calls) == shard:
                what()
            return execute(*given, **options)

        monkeypatch.setattr(embedder, "execute", interrupted)

    return let


def source(folder: Path, name: str, rows: int = 8) -> tuple[Path, dict[str, str]]:
    words = {f"{name}{number}": f"a {name} {number}" for number in range(rows)}
    return write_rows(folder / f"{name}.jsonl", words), words


def test_two_sources_at_once_lose_nothing(embedder: MLLMEmbedder, tmp_path: Path, meanwhile) -> None:
    (one, first), (two, second) = source(tmp_path, "shoe"), source(tmp_path, "hat", 5)
    inner = []
    meanwhile(lambda: inner.append(encode(embedder, two, tmp_path / "s")), shard=2)
    outer = encode(embedder, one, tmp_path / "s")
    assert (outer.rows, inner[0].rows, outer.held, inner[0].held) == (8, 5, 0, 0)
    check_rows(tmp_path / "s", first | second, Vectors(embedder))
    assert not (tmp_path / "s/plans").exists()


def test_an_id_of_two_sources_at_once_is_refused_by_name(embedder: MLLMEmbedder, tmp_path: Path, meanwhile) -> None:
    one, first = source(tmp_path, "shoe")
    two = write_rows(tmp_path / "two.jsonl", {"hat": "a hat", "shoe7": "another"})
    said = []

    def collide() -> None:
        with pytest.raises(DataError) as caught:
            encode(embedder, two, tmp_path / "s")
        said.append(str(caught.value))

    meanwhile(collide)
    encode(embedder, one, tmp_path / "s")
    assert 'the id "shoe7" is being embedded' in said[0] and str(one) in said[0] and str(two) in said[0]
    check_rows(tmp_path / "s", first, Vectors(embedder))


def test_a_source_that_grows_while_it_is_embedded(embedder: MLLMEmbedder, tmp_path: Path, meanwhile) -> None:
    one, first = source(tmp_path, "shoe")
    grown = first | {"shoe8": "one more"}
    inner = []

    def grow() -> None:
        write_rows(one, grown)
        inner.append(encode(embedder, one, tmp_path / "s"))

    meanwhile(grow)
    encode(embedder, one, tmp_path / "s")
    # the new row and the shards that were free; the one under way is held
    assert (inner[0].rows, inner[0].held, inner[0].store) == (6, 1, None)
    check_rows(tmp_path / "s", grown, Vectors(embedder))


def test_a_source_that_shrinks_while_it_is_embedded(embedder: MLLMEmbedder, tmp_path: Path, meanwhile) -> None:
    one, first = source(tmp_path, "shoe")
    two = write_rows(tmp_path / "two.jsonl", {})
    left = dict(list(first.items())[4:]) | {"new": "a new one"}
    inner = []

    def shrink() -> None:
        write_rows(two, left)
        two.replace(one)
        inner.append(encode(embedder, one, tmp_path / "s"))

    meanwhile(shrink)
    with pytest.raises(DataError, match="was changed while it was being read"):
        encode(embedder, one, tmp_path / "s")
    encode(embedder, one, tmp_path / "s")
    # what the other call plans is left to it, whole: of its three shards two have rows of this one
    assert (inner[0].rows, inner[0].held) == (1, 2)
    check_rows(tmp_path / "s", left, Vectors(embedder), exactly=False)


def test_what_a_stopped_call_made_stays(embedder: MLLMEmbedder, tmp_path: Path, meanwhile) -> None:
    (one, first), (two, second) = source(tmp_path, "shoe"), source(tmp_path, "hat", 5)

    def kill() -> None:
        raise Killed

    meanwhile(kill, shard=3)
    with pytest.raises(Killed):
        encode(embedder, one, tmp_path / "s")
    done = encode(embedder, two, tmp_path / "s")
    assert (done.rows, done.taken_in) == (5, 6)
    check_rows(tmp_path / "s", dict(list(first.items())[:6]) | second, Vectors(embedder))
    assert encode(embedder, one, tmp_path / "s").rows == 2
    check_rows(tmp_path / "s", first | second, Vectors(embedder))


def test_add_and_remove_while_rows_are_embedded(embedder: MLLMEmbedder, tmp_path: Path, meanwhile) -> None:
    one, first = source(tmp_path, "shoe")
    vectors = Vectors(embedder)
    encode(embedder, write_rows(tmp_path / "old.jsonl", {"old": "an old one", "gone": "to go"}), tmp_path / "s")

    def change() -> None:
        store = VectorStore.open(tmp_path / "s")
        store.add(["added"], vectors["added"][None])
        store.remove(["gone"])
        with pytest.raises(DataError, match='"shoe3" is being embedded into .*s from .*shoe.jsonl: finish that'):
            store.add(["shoe3"], vectors["added"][None])
        with pytest.raises(DataError, match='"shoe3" is not in'):
            store.remove(["old", "shoe3"])

    vectors["added"]
    meanwhile(change)
    encode(embedder, one, tmp_path / "s")
    check_rows(tmp_path / "s", first | {"old": "an old one", "added": "added"}, vectors)


def test_a_row_that_is_embedded_anew_is_not_removed_meanwhile(
    embedder: MLLMEmbedder, tmp_path: Path, meanwhile
) -> None:
    one, first = source(tmp_path, "shoe")
    encode(embedder, one, tmp_path / "s")
    write_rows(one, first | {"shoe3": "changed"})

    def remove() -> None:
        with pytest.raises(DataError, match='"shoe3" is being embedded anew into .*s from .*shoe.jsonl: wait'):
            VectorStore.open(tmp_path / "s").remove(["shoe1", "shoe3"])
        VectorStore.open(tmp_path / "s").remove(["shoe1"])

    meanwhile(remove)
    encode(embedder, one, tmp_path / "s")
    del first["shoe1"]
    check_rows(tmp_path / "s", first | {"shoe3": "changed"}, Vectors(embedder))


def test_an_index_that_is_built_while_rows_come(embedder: MLLMEmbedder, tmp_path: Path, meanwhile) -> None:
    (one, first), (two, second) = source(tmp_path, "shoe"), source(tmp_path, "hat", 5)
    encode(embedder, two, tmp_path / "s")
    meanwhile(lambda: build_index(VectorStore.open(tmp_path / "s"), tmp_path / "i", "flat"))
    encode(embedder, one, tmp_path / "s")
    index, vectors = Index.open(tmp_path / "i"), Vectors(embedder)
    words = first | second
    answers = index.nearest(np.stack([vectors[text] for text in words.values()]), 1)
    assert [best[0][0] for best in answers] == list(words)


@pytest.mark.parametrize("again", [False, True])
def test_a_store_that_is_removed_meanwhile(embedder: MLLMEmbedder, tmp_path: Path, meanwhile, again: bool) -> None:
    (one, _), (two, second) = source(tmp_path, "shoe"), source(tmp_path, "hat", 5)

    def remove() -> None:
        shutil.rmtree(tmp_path / "s")
        if again:
            encode(embedder, two, tmp_path / "s")

    meanwhile(remove, shard=2)
    with pytest.raises(DataError, match="was removed, or made anew, while it was being filled"):
        encode(embedder, one, tmp_path / "s")
    if again:
        check_rows(tmp_path / "s", second, Vectors(embedder))
    else:
        assert not (tmp_path / "s").exists()


class Mixture:
    """Random calls within one another, and what must be in the store whatever their order was."""

    def __init__(self, embedder: MLLMEmbedder, folder: Path, seed: int):
        self.embedder, self.folder, self.store = embedder, folder, folder / "s"
        self.rng, self.vectors = random.Random(seed), Vectors(embedder)
        self.words = {name: source(folder, name, 7)[1] for name in "abc"}
        self.must: dict[str, str] = {}
        self.removed: list[set[str]] = []  # during each encode that is under way
        self.busy: list[str] = []  # sources that are being embedded

    def encode(self, name: str) -> None:
        words = dict(self.words[name])
        self.removed.append(set())
        self.busy.append(name)
        try:
            done = encode(self.embedder, self.folder / f"{name}.jsonl", self.store, self.rng.choice((2, 3, 5)))
        finally:
            removed = self.removed.pop()
            self.busy.pop()
        if done.store is not None:
            # of a row that was added nobody knows what it holds: an encode takes it as it is
            added = {id for id, text in self.must.items() if text.startswith("added") and id not in removed}
            self.must |= {id: text for id, text in words.items() if id not in removed | added}

    def add(self) -> None:
        name = f"{self.rng.choice('abcx')}{self.rng.randrange(9)}"
        try:
            VectorStore(self.store).add([name], self.vectors[f"added {name}"][None])
        except DataError as error:
            assert "already" in str(error) or "is being embedded" in str(error)
            return
        self.must[name] = f"added {name}"

    def remove(self) -> None:
        names = self.rng.sample(sorted(self.must), min(2, len(self.must)))
        try:
            VectorStore(self.store).remove(names)
        except DataError as error:
            assert "is being embedded anew into" in str(error) and self.busy
            return
        for name in names:
            del self.must[name]
        for removed in self.removed:
            removed.update(names)

    def change(self) -> None:
        name = self.rng.choice("abc")
        if name in self.busy:
            return
        id = self.rng.choice(sorted(self.words[name]))
        self.words[name][id] = f"changed {self.rng.random()}"
        write_rows(self.folder / f"{name}.jsonl", self.words[name])

    def read(self) -> None:
        if len(VectorStore(self.store).living):
            check_rows(self.store, self.must, self.vectors, exactly=False)

    def step(self) -> None:
        what = self.rng.choice(("encode", "encode", "add", "remove", "change", "read", "kill"))
        if what == "kill" and self.busy:
            raise Killed
        if what == "encode":
            self.encode(self.rng.choice([name for name in "abc" if name not in self.busy] or ["a"]))
        elif what in ("add", "remove", "change", "read"):
            getattr(self, what)()


@pytest.mark.parametrize("seed", range(8))
def test_a_random_mixture_of_calls(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    mixture = Mixture(embedder, tmp_path, seed)
    VectorStore.create(mixture.store, embedder.dimension, provenance=embedder.provenance)
    execute = embedder.execute

    def interrupted(*given, **options):
        if 0 < len(mixture.busy) < 3 and mixture.rng.random() < 0.5:
            mixture.step()
        return execute(*given, **options)

    monkeypatch.setattr(embedder, "execute", interrupted)
    for _ in range(15):
        with suppress(Killed):
            mixture.step()
        mixture.read()
    monkeypatch.undo()
    for name in "abc":
        mixture.encode(name)
    check_rows(mixture.store, mixture.must, mixture.vectors)


def _work(embedder: MLLMEmbedder, folder: Path, seed: int) -> None:
    """Be one of several processes: embed all sources in some order, and add and remove rows of one's own between."""
    rng, store = random.Random(seed), folder / "s"
    vector = np.repeat(embedder.encode(["mine"], show_progress=False), 2, 0)
    for name in rng.sample("abc", 3):
        encode(embedder, folder / f"{name}.jsonl", store, rng.choice((2, 3)))
        _patiently(partial(VectorStore(store).add, [f"mine{seed}{name}", f"gone{seed}{name}"], vector))
        _patiently(partial(VectorStore(store).remove, [f"gone{seed}{name}"]))
        VectorStore.open(store).verify()


def _patiently(what: Callable[[], None]) -> None:
    """Do what is refused while another process writes."""
    while True:
        try:
            return what()
        except ConfigError as error:
            assert "another process is writing" in str(error)
            time.sleep(0.01)


def _ended(work: Callable[..., None], *given: object) -> None:
    try:
        work(*given)
    except MLLMEmbedError as error:
        raise SystemExit(str(error)) from None


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="copies a process with its model")
@pytest.mark.parametrize("seed", range(3))
def test_processes_with_several_sources(embedder: MLLMEmbedder, tmp_path: Path, seed: int) -> None:
    words = {name: source(tmp_path, name, 11)[1] for name in "abc"}
    VectorStore.create(tmp_path / "s", embedder.dimension, provenance=embedder.provenance)
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=_ended, args=(_work, embedder, tmp_path, 10 * seed + number)) for number in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    expected = words["a"] | words["b"] | words["c"]
    expected |= {f"mine{10 * seed + number}{name}": "mine" for number in range(4) for name in "abc"}
    check_rows(tmp_path / "s", expected, Vectors(embedder))
    assert not list((tmp_path / "s").rglob(".*")) and not (tmp_path / "s/plans").exists()
