"""Several vectors an input: of which tokens, the same in every batch, saved and loaded, refused where one is meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import families
from mllm_embed import Document, MLLMEmbedder, Query, Searcher
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.generate.explain import Explainer
from mllm_embed.model.heads.projection import Dense, Projection
from mllm_embed.saving.provenance import SPACE_FIELDS, check_same
from mllm_embed.store.gallery import MemoryGallery


@pytest.fixture(scope="module")
def multi(tiny_llava: Path) -> MLLMEmbedder:
    made = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", pooling="multi")
    torch.manual_seed(0)
    made.model.projection = Projection([Dense(64, 8, bias=True)])  # with a bias, which zeros must not get
    return made


def _items(data: Path) -> list[Query | Document]:
    first, second = (data / "images" / name for name in ("0.png", "1.png"))
    return [
        Query(first, "make it red"), Document(first), Document(text="a red hat"), Query(second, "and larger, too"),
        Query(first, "another one that is a good deal longer"), Document(text="one"), Document(first),
    ]  # fmt: skip


def test_each_token_of_picture_and_words_has_its_vector(multi: MLLMEmbedder, data: Path) -> None:
    items = _items(data)
    unread: dict[int, str] = {}
    found = multi.encode_multi([*items, data / "none.png"], unreadable=unread)
    assert list(unread) == [7] and len(found[7]) == 0
    for item, vectors in zip(items, found, strict=False):
        batch = multi.item_processor([item])
        chosen = batch.pop("content_mask")[0].bool()
        with torch.no_grad():
            states = multi.model.backbone(**batch).last_hidden_state[0, chosen]
            wanted = torch.nn.functional.normalize(multi.model.projection(states), dim=-1)
        np.testing.assert_allclose(vectors, wanted.numpy(), atol=1e-5)
    assert found.counts[1] == 16 < found.counts[0] < found.counts[4]
    packed = multi.encode_multi(items, batch_size=1, packed=True)
    np.testing.assert_allclose(packed.values, found.values, atol=1e-5)
    cut = multi.encode_multi(items[:1], dim=3)[0]
    np.testing.assert_allclose(cut, found[0][:, :3] / np.linalg.norm(found[0][:, :3], axis=1)[:, None], atol=1e-5)


def test_a_part_of_the_tokens_travels_with_the_model(multi: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    items, whole = _items(data), multi.encode_multi(_items(data))
    for pooled, kept in (("content_pictures", slice(None, 16)), ("content_words", slice(16, None))):
        part = MLLMEmbedder(multi.model, multi.processor, replace(multi.settings, pooled=pooled))
        found = part.encode_multi(items)
        np.testing.assert_allclose(found[0], whole[0][kept], atol=1e-5)
        np.testing.assert_allclose(found[1], whole[1], atol=1e-5)  # nothing but a picture, nothing but words
        np.testing.assert_allclose(found[2], whole[2], atol=1e-5)
        with pytest.raises(ConfigError, match="settings.pooled"):
            check_same(multi.provenance, part.provenance, ("settings",), "the store")
    part.save_pretrained(tmp_path / "saved")
    loaded = MLLMEmbedder.from_pretrained(tmp_path / "saved", dtype="float32")
    np.testing.assert_array_equal(loaded.encode_multi(items).values, part.encode_multi(items).values)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "library_name: mllm_embed" in card and "\n- sentence-transformers\n" not in card
    assert "SentenceTransformer" not in card
    assert "maxsim(queries, gallery)" in card and "dimension: 8" in card and "a vector for each of its tokens" in card


def test_no_vector_is_of_the_prompt_whatever_was_pooled_before(tiny_llava: Path, tmp_path: Path) -> None:
    single = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", pooling="last")
    single.settings = replace(single.settings, pooled="without_task")
    single.save_pretrained(tmp_path / "single")
    found = MLLMEmbedder.from_pretrained(tmp_path / "single", pooling="multi").encode_multi(["red"])
    assert found.counts.tolist() == [1]
    settings = tmp_path / "single" / "mllm_embed.json"
    settings.write_text(settings.read_text().replace('"last"', '"multi"'))
    with pytest.raises(ModelError, match="pooled is 'without_task', and pooling multi takes content alone"):
        MLLMEmbedder.from_pretrained(tmp_path / "single")
    mllama = families.make("mllama", tmp_path / "mllama")
    with pytest.raises(ConfigError, match="cross-attention, has none"):
        MLLMEmbedder.from_pretrained(mllama, pooling="multi")


def test_what_takes_single_vectors_says_so(
    multi: MLLMEmbedder, embedder: MLLMEmbedder, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="one vector a token.*encode_multi"):
        multi.encode(["one"])
    with pytest.raises(ConfigError, match="this gallery takes one vector an input"):
        Searcher(multi, MemoryGallery(["a"], np.ones((1, 8), np.float32), [None]))
    with pytest.raises(ConfigError, match=r"pooling is not 'multi'\): use encode"):
        embedder.encode_multi(["one"])
    with pytest.raises(ConfigError, match="an explanation takes one vector an input"):
        Explainer(multi)
    shorter = MLLMEmbedder(multi.model, multi.processor, replace(multi.settings, renormalize=False))
    assert len(shorter.encode_multi(["one"])[0])
    with pytest.raises(ConfigError, match="leaves those that it cuts shorter"):
        shorter.encode_multi(["one"], dim=3)
    with pytest.raises(ConfigError, match="input 0 avoids something"):
        multi.encode_multi([Query(data / "images/0.png", "make it red", avoid="a dog")])
    with pytest.raises(ConfigError, match="settings.pooling"):
        check_same(embedder.provenance, multi.provenance, SPACE_FIELDS, "the gallery")
