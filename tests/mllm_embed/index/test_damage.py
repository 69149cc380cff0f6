"""What is damaged, too small, or finds no room on the disk is told in one sentence, and nothing is half-written."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mllm_embed.cli import main
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.index import engines
from mllm_embed.index import target as target_module
from mllm_embed.index.build import build_index
from mllm_embed.index.faiss_index import Index
from mllm_embed.index.kinds import OF_STORES
from mllm_embed.index.target import Target, build_for
from mllm_embed.store.vector_store import VectorStore
from mllm_embed.vectors.bebr import training
from mllm_embed.vectors.unit import unit

ROWS, SIZE = 900, 24
FILES = {
    "index.faiss": "sq8", "lists.ivfdata": "ivf-disk", "projection.npy": "learned-signs",
    "codes.npy": "bebr", "head.safetensors": "bebr",
}  # fmt: skip


def make_store(folder: Path, rows: int = ROWS, size: int = SIZE) -> VectorStore:
    store = VectorStore.create(folder, size)
    store.add([f"r{row}" for row in range(rows)], unit(np.random.default_rng(0).standard_normal((rows, size))))
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an index of each kind that has a file of its own sort."""
    home = tmp_path_factory.mktemp("damage")
    store = make_store(home / "store")
    with pytest.MonkeyPatch.context() as patch:  # of random vectors signs find more, and no projection would be kept
        patch.setattr(engines, "projection_for", lambda rows, bits: np.eye(rows.shape[1], bits, dtype=np.float32))
        patch.setattr(training, "_STEPS", 5)
        for kind in set(FILES.values()):
            build_index(store, home / kind, kind, show_progress=False)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def flip(path: Path, at: float = 0.5) -> None:
    raw = bytearray(path.read_bytes())
    raw[int(at * (len(raw) - 1))] ^= 4
    path.write_bytes(raw)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, 0.5, 1])
def test_a_flipped_bit_is_seen_by_opening_and_by_verify(home: Path, name: str, at: float) -> None:
    path = home / FILES[name] / name
    index = Index.open(path.parent)
    index.verify()
    flip(path, at)
    for see in (lambda: Index.open(path.parent), index.verify):
        with pytest.raises(DataError, match=f"{name} is not what was written: build the index again"):
            see()
    path.unlink()
    for see in (lambda: Index.open(path.parent), index.verify):
        with pytest.raises(DataError, match=f"{name} is missing: build the index again"):
            see()


@pytest.mark.parametrize("name", FILES)
def test_without_checksums_faiss_is_told_from_a_file_that_it_cannot_read(home: Path, name: str) -> None:
    path = home / FILES[name] / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="FAISS cannot read .*build the index|damaged|is missing or cut short"):
        Index.open(path.parent, verify=False)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="FAISS cannot read .*build the index|damaged|is missing or cut short"):
        Index.open(path.parent, verify=False)


def test_files_that_changed_places_are_seen(home: Path) -> None:
    one, other = (home / kind / "index.faiss" for kind in ("sq8", "learned-signs"))
    spare = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(spare)
    for path in (one, other):
        with pytest.raises(DataError, match="index.faiss is not what was written"):
            Index.open(path.parent)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[: len(text) // 2], "index.json is not JSON"),
        (lambda text: "", "index.json is not JSON"),
        (lambda text: "[]", "index.json is damaged, or not of the format"),
        (lambda text: text.replace('"setting": ', '"setting": 1'), "index.json is not what was written"),
        (lambda text: text.replace(f'"rows": {ROWS}', f'"rows": {ROWS - 1}'), "index.json is not what was written"),
        (lambda text: text.replace('"rerank": ', '"rerank": "many", "was": '), r"index.json is damaged .rerank"),
        (lambda text: json.dumps(json.loads(text) | {"files": None}), r"index.json is damaged .files"),
        (lambda text: json.dumps(json.loads(text) | {"shards": "1"}), r"index.json is damaged .shards"),
    ],
)
def test_a_damaged_index_json_is_a_sentence(home: Path, spoil: Callable[[str], str], words: str) -> None:
    path = home / "sq8/index.json"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(DataError, match=words):
        Index.open(home / "sq8")


def test_an_index_json_of_before_opens_and_its_counts_are_looked_at(home: Path) -> None:
    path = home / "sq8/index.json"
    settings = json.loads(path.read_text())
    del settings["sha256"]
    path.write_text(json.dumps(settings))
    assert len(Index.open(home / "sq8")) == ROWS
    path.write_text(json.dumps(settings | {"rows": ROWS - 1}))
    with pytest.raises(DataError, match="was built of other vectors"):
        Index.open(home / "sq8")
    shutil.move(home / "store", home / "elsewhere")
    with pytest.raises(DataError, match="belongs to the store .*store, which is not there: move both together"):
        Index.open(home / "sq8")


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as on a full disk."""
    import resource  # which Windows has not

    before, least = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, least[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, least)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of POSIX")
@pytest.mark.parametrize("kind", ["ivf-disk", "binary"])
def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(
    home: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "binary":
        build_index(VectorStore.open(home / "store"), home / kind, kind, show_progress=False)
    before = {path: path.read_bytes() for path in (home / kind).iterdir()}
    with small_files(2000):
        assert main(["index", str(home / "store"), "--kind", kind, "--output", str(home / kind)]) == 2
    assert f"cannot write {home / kind}: File too large" in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in (home / kind).iterdir()} == before
    assert not list(home.glob(f".{kind}-*"))


def test_a_small_store_is_told_what_an_exact_search_takes_and_prints_no_line_of_faiss(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "s", rows=300)
    for kind in ("ivf", "ivf-disk", "pq", "rabitq"):
        assert main(["index", str(tmp_path / "s"), "--kind", kind, "--output", str(tmp_path / kind)]) == 0
        out, err = capfd.readouterr()
        assert out.startswith("an exact search of the 300 vectors takes ") and "so few need no index" in out
        assert [words for words in ("WARNING", "clustering", "resizing", "IO_FLAG") if words in out + err] == []
        index = Index.open(tmp_path / kind)
        assert index.card["exact_ms"] > 0 and capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_sizes_are_known_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, built = make_store(tmp_path / "s", rows=1200, size=64), []
    for name in ("hnsw", "ivf", "sq8", "rabitq4", "rabitq", "pq", "binary"):
        size = build_index(store, tmp_path / name, name, show_progress=False).card["bytes"]
        assert OF_STORES[name].bytes(1200, 64) == pytest.approx(size, rel=0.05)
    build = target_module.build_index
    monkeypatch.setattr(target_module, "build_index", lambda *a, **b: built.append(a[2]) or build(*a, **b))
    made = build_for(store, tmp_path / "i", Target(0.1, 1 / 16), show_progress=False)
    # others are as small by their codes, but have tables that weigh more than so few rows
    assert made.kind_name == "binary" and set(built) == {"binary"}
    with pytest.raises(ConfigError, match="no kind of index is that small; the smallest takes 1/32 .'binary'"):
        build_for(store, tmp_path / "j", Target(0.1, 1 / 40), show_progress=False)


def test_what_is_slow_to_train_is_tried_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, said = make_store(tmp_path / "s"), []
    monkeypatch.setattr(target_module, "OF_STORES", {name: OF_STORES[name] for name in ("pq", "rabitq4", "binary")})
    build_for(store, tmp_path / "i", Target(0.5), say=said.append, show_progress=False)
    assert [line.split()[0] for line in said[1:]] == ["rabitq4", "binary"]
    with pytest.raises(ConfigError, match="no kind of index meets the target"):
        build_for(store, tmp_path / "j", Target(latency=1e-9), say=said.append, show_progress=False)
    assert said[-1].split()[0] == "pq"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["https://example.org/s", "--kind", "flat"], "https://example.org/s is a URL: nothing is downloaded"),
        (["s", "--kind", "flat", "--seed", "-1"], "--seed must be 0 or more, not -1"),
        (["s", "--kind", "flat", "--output", "s/manifest.json"], "is a file: give a folder for the index"),
        (["none", "--target", "recall>=0.9"], "none is no vector store"),
    ],
)
def test_wrong_commands_are_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "s", rows=5)
    assert main(["index", *options]) == 2
    assert words in capsys.readouterr().err


def test_the_folder_that_one_stands_in_can_be_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "s", rows=5)
    monkeypatch.chdir(tmp_path / "s")
    assert main(["index", ".", "--kind", "flat"]) == 0
    assert len(Index.open(tmp_path / "s.index")) == 5
