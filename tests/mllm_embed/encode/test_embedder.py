"""Vectors: shape, order, invariance to batch mates, sensitivity to picture and words, saving and loading."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_embed import Document, MLLMEmbedder, PromptSet, Query
from mllm_embed.errors import ConfigError, DataError, ImageError, ModelError
from mllm_embed.model.lora import LoraSpec, add_lora


def _items(data: Path) -> list[object]:
    images = [data / "images" / f"{i}.png" for i in range(4)]
    return [
        images[0],
        Query(image=images[1], instruction="make it red"),
        "a caption",
        Query(image=images[1], instruction="a rather long instruction that is padded in no other row of this batch"),
        images[2],
        "another caption, much longer than the first of them, so that padding is needed",
        Document(image=images[0]),
    ]


def _train_a_little(embedder: MLLMEmbedder) -> None:
    """An adapter whose weights are not the neutral ones."""
    add_lora(embedder.model, LoraSpec(rank=4, alpha=8, dropout=0.0), embedder.family)
    torch.manual_seed(0)
    for parameter in embedder.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)


def test_unit_float32_rows_in_order(embedder: MLLMEmbedder, data: Path) -> None:
    vectors = embedder.encode(_items(data))
    assert vectors.shape == (7, embedder.dimension) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[6])
    as_torch = embedder.encode(_items(data), convert_to="torch")
    assert torch.equal(as_torch, torch.from_numpy(vectors))


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_a_vector_does_not_depend_on_its_batch(embedder: MLLMEmbedder, data: Path, batch_size: int) -> None:
    items = _items(data)
    alone = np.concatenate([embedder.encode([item]) for item in items])
    np.testing.assert_allclose(embedder.encode(items, batch_size=batch_size), alone, atol=1e-5)


def test_one_input_is_embedded_in_the_thread_that_asks(
    embedder: MLLMEmbedder, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [Query(image=data / "images/1.png", instruction="make it red"), "a caption"]
    expected = embedder.encode(inputs)

    def start(thread: threading.Thread) -> None:
        raise AssertionError(f"the thread {thread.name} was started")

    monkeypatch.setattr(threading.Thread, "start", start)
    alone = [embedder.encode([one], show_progress=False)[0] for one in inputs]
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_a_part_that_was_left_training_embeds_as_before(embedder: MLLMEmbedder) -> None:
    expected = embedder.encode(["a caption"])
    part = embedder.model.base.get_submodule("language_model")
    part.train()
    np.testing.assert_array_equal(embedder.encode(["a caption"]), expected)
    assert not part.training


def test_inputs_with_and_without_pictures_are_processed_apart(embedder: MLLMEmbedder, data: Path) -> None:
    with pytest.raises(DataError, match="with and without pictures"):
        embedder.item_processor([Document(text="a hat"), Document(image=data / "images/0.png")])


def test_the_last_token_of_the_normed_states_is_pooled(embedder: MLLMEmbedder) -> None:
    batch = embedder.item_processor([Document(text="one hat")])
    hidden = embedder.model.backbone(**batch).last_hidden_state[0, -1]
    expected = (hidden / hidden.norm()).detach().numpy()
    np.testing.assert_allclose(embedder.encode(["one hat"])[0], expected, atol=1e-6)


def test_picture_and_words_both_matter(embedder: MLLMEmbedder, data: Path) -> None:
    a, b = data / "images/0.png", data / "images/1.png"
    queries = [Query(a, "make it red"), Query(b, "make it red"), Query(a, "make it blue"), Query(a)]
    cosines = embedder.similarity(*2 * [embedder.encode_query(queries)])
    assert (cosines[~np.eye(4, dtype=bool)] < 1 - 1e-4).all()


def test_bytes_pictures_and_paths_agree(embedder: MLLMEmbedder, data: Path) -> None:
    path = data / "images/0.png"
    vectors = embedder.encode([path, path.read_bytes(), Image.open(path), {"image": str(path)}])
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], 4, axis=0), atol=1e-6)


def test_no_input_gives_no_row(embedder: MLLMEmbedder) -> None:
    assert embedder.encode([]).shape == (0, embedder.dimension)


@pytest.mark.parametrize("merge", [False, True])
def test_saved_adapter_and_merged_model_give_the_same_vectors(
    tiny_llava: Path, embedder: MLLMEmbedder, data: Path, tmp_path: Path, merge: bool
) -> None:
    _train_a_little(embedder)
    embedder.save_pretrained(tmp_path / "out", merge=merge)
    base = {} if merge else {"adapter": tmp_path / "out"}
    loaded = MLLMEmbedder.from_pretrained(tmp_path / "out" if merge else tiny_llava, dtype="float32", **base)
    before, after = embedder.encode(_items(data)), loaded.encode(_items(data))
    np.testing.assert_allclose(after, before, atol=1e-5)
    plain = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32").encode(_items(data))
    assert np.abs(plain - before).max() > 0.01
    assert not [path.name for path in (tmp_path / "out").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    again = MLLMEmbedder.from_pretrained(tmp_path / "out", dtype="float32")
    np.testing.assert_allclose(again.encode(_items(data)), before, atol=1e-5)


def test_a_merged_model_is_a_stock_folder(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    from transformers import AutoModel

    _train_a_little(embedder)
    embedder.save_pretrained(tmp_path / "out", merge=True)
    model, report = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    batch = embedder.item_processor([Document(text="a hat")])
    mine = embedder.model.backbone(**batch).last_hidden_state
    torch.testing.assert_close(model(**batch).last_hidden_state, mine, atol=1e-4, rtol=1e-4)


def test_prompts_travel_with_the_model(tiny_llava: Path, tmp_path: Path) -> None:
    mine = PromptSet(name="mine", image="What?", composed="Now {instruction}", text="Word: {text}")
    MLLMEmbedder.from_pretrained(tiny_llava, prompts=mine).save_pretrained(tmp_path / "out")
    assert MLLMEmbedder.from_pretrained(tmp_path / "out").prompts == mine


def test_an_adapter_of_another_base_is_refused(embedder: MLLMEmbedder, other_llava: Path, tmp_path: Path) -> None:
    _train_a_little(embedder)
    embedder.save_pretrained(tmp_path / "out")
    with pytest.raises(ModelError, match="trained on another base"):
        MLLMEmbedder.from_pretrained(other_llava, adapter=tmp_path / "out")


def test_a_failing_save_leaves_the_old_folder(
    embedder: MLLMEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder.save_pretrained(tmp_path / "out")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(embedder.processor, "save_pretrained", fail)
    with pytest.raises(DataError, match=r"cannot write .* disk full"):
        embedder.save_pretrained(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_mistakes_get_a_sentence(embedder: MLLMEmbedder, tiny_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder with a model"):
        MLLMEmbedder.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        MLLMEmbedder.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot load the model someone/unknown"):
        MLLMEmbedder.from_pretrained("someone/unknown")
    with pytest.raises(ModelError, match="holds no adapter"):
        MLLMEmbedder.from_pretrained(tiny_llava, adapter=tmp_path)
    with pytest.raises(ConfigError, match="dtype 'float33'"):
        MLLMEmbedder.from_pretrained(tiny_llava, dtype="float33")
    with pytest.raises(DataError, match="list of inputs"):
        embedder.encode("one text")
    with pytest.raises(ImageError, match=r"none\.png does not exist"):
        embedder.encode([tmp_path / "none.png"])


def test_settings_are_open_and_without_paths_of_ours(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    _train_a_little(embedder)
    embedder.save_pretrained(tmp_path / "out")
    settings = json.loads((tmp_path / "out/mllm_embed.json").read_text())
    assert settings["prompts"]["name"] == "instructcir" and settings["pooling"] == "last"
    assert len(settings["base"]["fingerprint"]) == 64


@pytest.mark.parametrize("batch_size", [1, 32])
def test_what_cannot_be_read_costs_the_others_nothing(
    embedder: MLLMEmbedder, data: Path, tmp_path: Path, batch_size: int
) -> None:
    cut, gone, items = tmp_path / "cut.jpg", tmp_path / "gone.png", _items(data)
    Image.new("RGB", (64, 64), "red").save(cut)
    cut.write_bytes(cut.read_bytes()[:400])
    bad = [Query(cut, "make it red"), Document(cut), gone, "long " * 9000, Query(items[0], "long " * 9000)]
    lost: dict[int, str] = {}
    vectors = embedder.encode([*bad[:3], *items, *bad[3:]], unreadable=lost, batch_size=batch_size)
    assert sorted(lost) == [0, 1, 2, 10, 11] and not vectors[sorted(lost)].any()
    assert str(cut) in lost[0] and lost[1] == lost[0] and "does not exist" in lost[2] and "over the limit" in lost[10]
    np.testing.assert_allclose(vectors[3:10], embedder.encode(items), atol=1e-5)
    for item in bad:
        with pytest.raises((ImageError, DataError)):
            embedder.encode([*items, item])


def test_a_vector_of_nan_is_refused(embedder: MLLMEmbedder) -> None:
    with torch.no_grad():
        embedder.model.backbone.get_input_embeddings().weight[ord("z") : ord("z") + 200] = float("nan")
    with pytest.raises(ModelError, match="the vector of input 0, 'zzz', holds NaN: .* mend the model"):
        embedder.encode(["zzz"])
    with pytest.raises(ModelError, match="holds NaN"):
        embedder.encode(["zzz"], precision="int8", unreadable={})


def test_a_merged_adapter_gives_the_same_vectors(embedder: MLLMEmbedder, data: Path, tmp_path: Path) -> None:
    assert embedder.merge_adapter() is embedder  # which has none
    _train_a_little(embedder)
    before = embedder.encode(_items(data))
    embedder.merge_adapter()
    assert not embedder.model.adapted
    np.testing.assert_allclose(embedder.encode(_items(data)), before, atol=1e-5)
    embedder.save_pretrained(tmp_path / "whole")
    again = MLLMEmbedder.from_pretrained(tmp_path / "whole", dtype="float32")
    np.testing.assert_allclose(again.encode(_items(data)), before, atol=1e-5)


def test_a_quantised_model_keeps_its_adapter(saved_models: dict[str, Path]) -> None:
    embedder = MLLMEmbedder.from_pretrained(saved_models["adapter"], dtype="float32", quantization="int8")
    assert embedder.merge_adapter().model.adapted
