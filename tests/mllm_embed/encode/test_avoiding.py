"""Queries that say what must not be seen: whose direction is taken from them, wherever they come in."""

import json
from pathlib import Path

import numpy as np
import pytest

from mllm_embed import Document, MLLMEmbedder, Query, VectorStore
from mllm_embed.cli import main
from mllm_embed.encode.dual_encoder import DualEncoder
from mllm_embed.errors import ConfigError, DataError
from mllm_embed.saving.provenance import check_taught
from mllm_embed.types import as_document, as_item
from mllm_embed.vectors.avoiding import WEIGHT, avoiding

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def embedder(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava)


def _turned(query: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Turn one vector away from another, number by number."""
    along = sum(float(q) * float(a) for q, a in zip(query, words, strict=True))
    rest = [float(q) - WEIGHT * (float(a) - along * float(q)) for q, a in zip(query, words, strict=True)]
    return np.array(rest) / sum(number * number for number in rest) ** 0.5


def test_what_is_avoided_is_encoded_once_and_taken_from_each_query(embedder: MLLMEmbedder, data: Path) -> None:
    a, b = (data / "images" / f"{number}.png" for number in (0, 1))
    plain = [Query(a, "make it red"), Query(b), Query(text="a hat"), Document(b), Query(a, "make it red")]
    avoided = ["a dog", "a dog", "a longer text about cats", None, None]
    asked = [
        Query(item.image, item.instruction, item.text, avoid=avoid) if isinstance(item, Query) else item
        for item, avoid in zip(plain, avoided, strict=True)
    ]
    found = embedder.encode(asked, show_progress=False)
    before = embedder.encode(plain, show_progress=False)
    dog, cats = embedder.encode([Query(text=avoided[0]), Query(text=avoided[2])], show_progress=False)
    expected = [*map(_turned, before[:3], (dog, dog, cats)), *before[3:]]
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert np.abs(found[:3] - before[:3]).max() > 0.01
    # the query with and without it, a picture on both sides, and three texts of which two are avoided
    assert len(embedder.plan(asked).inputs) == len(embedder.plan(plain).inputs) + 2
    np.testing.assert_allclose(DualEncoder(embedder, embedder).encode(asked, show_progress=False), found, **CLOSE)
    cut = embedder.encode(asked, dim=8, show_progress=False)
    np.testing.assert_allclose(cut, found[:, :8] / np.linalg.norm(found[:, :8], axis=1, keepdims=True), **CLOSE)


def test_a_query_that_cannot_be_read_has_no_vector_and_says_why(embedder: MLLMEmbedder, data: Path) -> None:
    a = data / "images" / "0.png"
    short = MLLMEmbedder(embedder.model, embedder.processor, embedder.settings.limited(60, None))
    unreadable: dict[int, str] = {}
    asked = [Query(a, "red", avoid="word " * 200), Query("missing.png", "red", avoid="a dog"), Query(a, "red")]
    found = short.encode(asked, unreadable=unreadable, show_progress=False)
    assert sorted(unreadable) == [0, 1] and unreadable[0].startswith("what it avoids: ")
    assert found.any(axis=1).tolist() == [False, False, True]


def test_no_query_turns_further_than_its_weight_lets_it() -> None:
    rng = np.random.default_rng(0)
    query, words = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 50, 6)))
    query, words = query.astype(np.float32), words.astype(np.float32)
    assert avoiding(query, words, 0) is query
    for weight in (0.3, 2.0):
        assert (query * avoiding(query, words, weight)).sum(1).min() >= np.cos(np.arctan(weight)) - 1e-6
    np.testing.assert_allclose(avoiding(query, query), query, atol=1e-7)
    np.testing.assert_allclose(avoiding(query, words), list(map(_turned, query, words)), atol=1e-6)
    with pytest.raises(ConfigError, match="finite number, 0 or more, not -1"):
        avoiding(query, words, -1)


def test_rows_of_queries_bring_what_they_avoid(embedder: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    picture = str(data / "images" / "0.png")
    rows = [{"id": "a", "image": picture, "instruction": "red", "avoid": "a dog"}, {"id": "b", "image": picture}]
    rows.append({"id": "c", "image": picture, "avoid": "a dog"})

    def encoded() -> list[np.ndarray]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        model, output = str(embedder.settings.base), str(tmp_path / "store")
        assert main(["encode", str(tmp_path / "rows.jsonl"), "--model", model, "--output", output]) == 0
        store = VectorStore.open(output)
        found = dict(zip(store.ids, store.take(np.arange(len(store))), strict=True))
        return [found[name] for name in "abc"]

    asked = [Query(picture, "red", avoid="a dog"), Document(picture), Query(picture, avoid="a dog")]
    np.testing.assert_allclose(encoded(), embedder.encode(asked, show_progress=False), **CLOSE)
    rows[0]["avoid"] = "a cat"  # another row, by what it holds
    asked[0] = Query(picture, "red", avoid="a cat")
    np.testing.assert_allclose(encoded(), embedder.encode(asked, show_progress=False), **CLOSE)


def test_what_cannot_avoid_anything_is_refused() -> None:
    assert as_item({"image": b"", "avoid": "a dog"}) == Query(image=b"", avoid="a dog")
    with pytest.raises(DataError, match="a document avoids nothing"):
        as_document({"image": b"", "avoid": "a dog"})
    with pytest.raises(DataError, match="the avoid of a Query is empty"):
        Query(text="a hat", avoid=" ")
    with pytest.raises(DataError, match="a Query needs an image"):
        Query(avoid="a dog")
    with pytest.raises(ConfigError, match="cannot encode words to avoid, which are a text: its teacher does"):
        check_taught([Query(b"", "red", avoid="a dog")], {"base": "x"})
    assert Query(b"", "red", avoid="a dog").key != Query(b"", "red").key
