"""A store of several vectors a row: what it keeps, how it is searched and resumed, and who is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fuzz.tools.store_forms import MODELS
from mllm_embed import MLLMEmbedder, Query, Searcher, VectorStore
from mllm_embed.cli import main
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.model.heads.projection import new_projection
from mllm_embed.store.extract import encode_sources
from mllm_embed.types import Document
from mllm_embed.vectors.maxsim import maxsim


@pytest.fixture(scope="module")
def multi(tiny_llava: Path) -> MLLMEmbedder:
    made = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", pooling="multi")
    torch.manual_seed(0)
    made.model.projection = new_projection(64, 8)
    return made


def _encode(multi: MLLMEmbedder, data: Path, store: Path, dtype: str = "float16") -> VectorStore:
    sources = open_sources([data / "images"])
    encode_sources(multi, sources, store, dtype=dtype, shard_rows=3, show_progress=False)
    return VectorStore.open(store)


def _pictures(store: VectorStore) -> list[Document]:
    return [Document(image=Path(place or "")) for place in store.sources]


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 2e-2)])
def test_what_is_kept_is_what_was_made(
    multi: MLLMEmbedder, data: Path, tmp_path: Path, dtype: str, near: float
) -> None:
    (data / "images/broken.png").write_text("no picture")
    store = _encode(multi, data, tmp_path / "store", dtype)
    found = [own for shard in range(len(store.shards)) for own in store.several(shard)]
    for own, wanted in zip(found, multi.encode_multi(_pictures(store)), strict=True):
        np.testing.assert_allclose(own, wanted, atol=near)
    assert len(store) == 8 and [entry["id"] for entry in store.lost] == ["broken.png"]
    assert np.load(tmp_path / "store/shards/000000.npy", mmap_mode="r").dtype == dtype


def test_it_is_searched_by_maxsim_and_grows(multi: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    last = (data / "images/7.png").read_bytes()
    (data / "images/7.png").unlink()
    _encode(multi, data, tmp_path / "store")
    before = {path: path.read_bytes() for path in (tmp_path / "store/shards").glob("*.npy")}
    (data / "images/7.png").write_bytes(last)
    store = _encode(multi, data, tmp_path / "store")  # what is there already is not made again
    assert len(store) == 8 and all(path.read_bytes() == content for path, content in before.items())
    store.remove(["3.png"])
    query = Query(data / "images/0.png", "make it red")
    searcher = Searcher.open(multi, tmp_path / "store")
    allow = [name for name in store.living if name != "2.png"]
    hits = searcher.search(query, 4, exclude=["1.png"], allow=allow)
    scores = dict(zip(store.ids, maxsim(*map(multi.encode_multi, ([query], _pictures(store))))[0], strict=True))
    wanted = sorted(set(allow) - {"1.png"}, key=lambda name: -scores[name])[:4]
    assert [hit.id for hit in hits] == wanted and "3.png" not in wanted
    assert [hit.score for hit in hits] == pytest.approx([scores[name] for name in wanted], abs=1e-3)
    assert searcher.search(query, 1, exclude_reference=True)[0].id != "0.png"
    many = searcher.search_many([Query(text="a hat"), query], 4, allow=allow)
    assert [hit.id for hit in many[1]] == [hit.id for hit in searcher.search(query, 4, allow=allow)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mllm_embed.store.several.gallery._SCORES", 1)  # a query at a time
        apart = searcher.search_many([Query(text="a hat"), query], 4, allow=allow)
    assert [[(hit.id, hit.score) for hit in hits] for hits in apart] == [
        [(hit.id, pytest.approx(hit.score, abs=1e-6)) for hit in hits] for hits in many
    ]
    with pytest.raises(ConfigError, match="a session takes one vector an input"):
        searcher.session()
    with pytest.raises(ConfigError, match="edit strength 0.5 takes one vector an input"):
        searcher.search(query, edit_strength=0.5)


@pytest.mark.parametrize("form", ["several", "lexical"])
def test_what_a_row_avoids_is_refused_before_the_work(embedder: MLLMEmbedder, tmp_path: Path, form: str) -> None:
    rows = [{"id": "a", "text": "a hat"}, {"id": "b", "text": "a hat", "avoid": ""}]
    rows.append({"id": "c", "text": "a cap", "avoid": "a dog"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="rows.jsonl: row 3 avoids something, which is taken from"):
        encode_sources(MODELS[form](embedder), open_sources([tmp_path / "rows.jsonl"]), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_damage_and_what_takes_one_vector_a_row_are_refused(
    multi: MLLMEmbedder,
    embedder: MLLMEmbedder,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = _encode(multi, data, tmp_path / "store")
    with pytest.raises(ConfigError, match="keeps a vector a token.*one vector a row is asked for"):
        store.rows(0, 2)
    with pytest.raises(ConfigError, match="keeps a vector a token"):
        store.add(["x"], np.eye(1, 8, dtype=np.float32))
    with pytest.raises(ConfigError, match="were made otherwise"):
        Searcher.open(embedder, tmp_path / "store")
    with pytest.raises(ConfigError, match="were made otherwise"):
        _encode(embedder, data, tmp_path / "store")
    place, search = str(tmp_path / "store"), ["--model", "none", "--instruction", "red", "--gallery"]
    for command, words in (
        (["index", place, "--kind", "bebr"], "one vector a row is asked for"),
        (["export", place, "--to", "npy", "--output", str(tmp_path / "out")], "one vector a row is asked for"),
        (["upload", place, f"qdrant:{tmp_path / 'qdrant'}/c"], "one vector a row is asked for"),
        (["serve", place, "--model", "none"], "a server compares one vector a row"),
        (["search", *search, place, "--lexical", "1"], "was made without lexical vectors"),
        (["search", *search, place, "--lexical", "nan"], "the weight of lexical scores must be a number over 0"),
    ):
        assert main(command) == 2
        assert words in capsys.readouterr().err  # before a model is looked for, and before anything is made
    assert not any((tmp_path / name).exists() for name in ("out", "qdrant", "store.index"))
    record = tmp_path / "store/shards/000000.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "counts": [*content["counts"], 1]}))
    with pytest.raises(DataError, match=r"000000.json is damaged \(counts\)"):
        VectorStore.open(tmp_path / "store")
