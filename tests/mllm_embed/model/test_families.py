"""Fourteen families as tiny random models with real configs and processors.

`scripts/family_table.py` makes a table of the outcome: a family a row, a test a column.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.utils import is_torchvision_available

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ModelError
from mllm_embed.model.families import FAMILIES, TESTED
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.model.quantization import QUANTIZATIONS
from mllm_embed.training.recipe.config import Recipe
from mllm_embed.training.run.stages import run_recipe

CLOSE = {"atol": 1e-5, "rtol": 0}
SEES_BOTH_WAYS = ("paligemma", "embedding_gemma2")  # their attention over a prompt always does


@pytest.fixture(scope="module")
def model(folder: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def items() -> list[Query | Document]:
    """Every role, pictures of several sizes, short words and long ones."""
    a, b, c = (_picture(*size, seed) for seed, size in enumerate(((32, 32), (96, 40), (40, 72))))
    return [
        Document(image=a),
        Document(image=b),
        Query(image=a, instruction="make it red"),
        Query(image=c, instruction="a rather long instruction that is padded in no other row of this batch"),
        Query(image=[a, c], instruction="both of them side by side"),
        Document(image=c, text="a blue caption"),
        Document(text="a hat"),
        Document(text="another caption, much longer than the first of them, so that padding is needed"),
        Query(text="a red hat", instruction="make it blue"),
    ]


def _picture(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def _alone(model: MLLMEmbedder, items: list) -> np.ndarray:
    return np.concatenate([model.encode([item]) for item in items])


def test_encodes(model: MLLMEmbedder, items: list) -> None:
    vectors = model.encode(items)
    assert vectors.shape == (len(items), model.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_same_alone_and_in_a_batch(model: MLLMEmbedder, items: list) -> None:
    alone = _alone(model, items)
    for size in (2, len(items)):
        np.testing.assert_allclose(model.encode(items, batch_size=size), alone, **CLOSE)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_same_where_a_prefix_is_shared(family: str, folder: Path, pooling: str) -> None:
    model = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu", pooling=pooling)
    a, b, c = (_picture(*size, seed) for seed, size in enumerate(((32, 32), (96, 40), (40, 72))))
    items = [
        Document(a), Query(a, "make it red"), Query(a, "make it red, and longer than the others by some words"),
        Document(b), Query(b, "blue"), Document(b, "a caption"), Query([a, c], "side by side"), Query([a, c], "apart"),
    ]  # fmt: skip
    work = model.plan(items)
    shared = [group for step in work.steps if step.shared for group in step.groups]
    assert sorted(map(len, shared)) == ([] if family in SEES_BOTH_WAYS else [2, 3, 3])
    np.testing.assert_allclose(model.execute(work).vectors, _alone(model, items), **CLOSE)


def test_same_packed(model: MLLMEmbedder, items: list) -> None:
    many = [*items, *(Document(text=f"a short text, number {number}") for number in range(12))]
    np.testing.assert_allclose(model.encode(many, packed=True), _alone(model, many), **CLOSE)


def test_picture_and_words_matter(model: MLLMEmbedder) -> None:
    a, b = _picture(64, 64, 3), _picture(64, 64, 4)
    queries = [Query(a, "make it red"), Query(b, "make it red"), Query(a, "make it blue"), Query([a, b], "make it red")]
    documents = [Document(a), Document([a, b]), Document([b, a]), Document(a, "a red hat"), Document(a, "a blue hat")]
    cosines = model.similarity(*2 * [model.encode([*queries, *documents])])
    assert (cosines[~np.eye(9, dtype=bool)] < 1 - 1e-4).all()


def test_placeholders_in_words_are_words(model: MLLMEmbedder) -> None:
    """They stand for no picture, beside one and without, and what comes behind them counts."""
    picture, placeholders = _picture(64, 64, 5), model.item_processor.placeholders
    words = [f"a hat {token} {more}" for token in placeholders for more in ("red", "blue")]
    vectors = np.concatenate([model.encode(words), model.encode([Query(picture, one) for one in words])])
    cosines = vectors @ vectors.T
    assert (cosines[~np.eye(len(vectors), dtype=bool)] < 1 - 1e-4).all()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_picture_is_looked_at_once(
    family: str, folder: Path, monkeypatch: pytest.MonkeyPatch, bidirectional: bool
) -> None:
    """Also where what begins with it cannot be shared, in the families that take features made before."""
    model = MLLMEmbedder.from_pretrained(folder, dtype="float32", bidirectional=bidirectional)
    a, b = _picture(64, 96, 3), _picture(96, 64, 4)
    many = [Document(a), Query(a, "make it red"), Query(b, "make it red"), Document(b), Query(a, "blue, and larger")]
    many += [Query([a, b], "both"), Document([a, b])]
    alone = _alone(model, many)
    seen: list[int] = []
    look = model.model.base.get_image_features if model.family.reuses_features else None
    if look:

        def counted(*given: Any, **options: Any) -> Any:
            told = inspect.signature(look).bind(*given, **options).arguments
            seen.append(len(told.get("image_grid_thw", told["pixel_values"])))
            return look(*given, **options)

        counted.__signature__ = inspect.signature(look)
        monkeypatch.setattr(model.model.base, "get_image_features", counted)
    np.testing.assert_allclose(model.encode(many), alone, **CLOSE)
    if look and not model.model.shares_prefixes:
        assert sum(seen) == 2 + 4 and model.plan(many).planned.pictures == 6
    # embedding_gemma2 takes no features that were made before
    assert look or family not in SEES_BOTH_WAYS or family == "embedding_gemma2"


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [False, True])
def test_mean_pooling(folder: Path, items: list, bidirectional: bool) -> None:
    model = MLLMEmbedder.from_pretrained(folder, dtype="float32", pooling="mean", bidirectional=bidirectional)
    alone = _alone(model, items)
    np.testing.assert_allclose(model.encode(items), alone, **CLOSE)
    np.testing.assert_allclose(model.encode(items, packed=True), alone, **CLOSE)
    assert np.abs(alone - MLLMEmbedder.from_pretrained(folder, dtype="float32").encode(items)).max() > 0.01


def test_bidirectional(family: str, folder: Path) -> None:
    """The state of a text's first token knows how the text ends just when attention looks both ways."""

    def first_states(bidirectional: bool) -> torch.Tensor:
        model = MLLMEmbedder.from_pretrained(folder, dtype="float32", bidirectional=bidirectional)
        batch = model.item_processor([Document(text="a hat, red"), Document(text="a hat, blue")])
        first = batch["attention_mask"].argmax(1)
        with torch.no_grad():
            hidden = model.model.backbone(**batch, use_cache=False).last_hidden_state
        return hidden[torch.arange(2), first]

    causal, both = first_states(False), first_states(True)
    assert (causal[0] - causal[1]).abs().max() < 1e-5 or family in SEES_BOTH_WAYS
    assert (both[0] - both[1]).abs().max() > 1e-4


@pytest.mark.slow
def test_trains_both_stages_saves_and_reloads(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # drawing a run takes longer than its steps
    monkeypatch.setattr("mllm_embed.training.run.stage.common.write_report", lambda run: [])
    stage = {"data": data, "batch_size": 4, "steps": 1, "learning_rate": 1e-2, "warmup": 0.0}
    captions = {"rows": "pairs", "terms": [{"query": "image", "positive": "caption", "symmetric": True}]}
    term = {"query": "composed", "positive": "target_text", "negatives": ["source_text", "query_image"]}
    recipe = Recipe(
        model=str(folder), output=tmp_path / "run", bf16=False, lora={"rank": 4, "dropout": 0.0},
        stages={"captions": {**stage, **captions}, "instructions": {**stage, "rows": "triplets", "terms": [term]}},
    )  # fmt: skip
    adapter = run_recipe(recipe)
    first, second = (load_file(tmp_path / "run" / name / "adapter_model.safetensors") for name in recipe.stages)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    trained = MLLMEmbedder.from_pretrained(adapter, dtype="float32")
    items = [data / "images/1.png", "a hat", Query(data / "images/0.png", "make it red")]
    before = trained.encode(items)
    assert np.abs(before - MLLMEmbedder.from_pretrained(folder, dtype="float32").encode(items)).max() > 1e-3
    trained.save_pretrained(tmp_path / "merged", merge=True)
    np.testing.assert_allclose(MLLMEmbedder.from_pretrained(tmp_path / "merged").encode(items), before, **CLOSE)


@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_quantised(folder: Path, model: MLLMEmbedder, items: list, mode: str) -> None:
    quantised = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu", quantization=mode)
    vectors = quantised.encode(items)
    np.testing.assert_allclose(vectors, _alone(quantised, items), **CLOSE)
    cosines = (vectors * model.encode(items)).sum(1)
    assert 0.8 < cosines.min() < 1 - 1e-7
    add_lora(quantised.model, LoraSpec(rank=4), quantised.family)
    quantised.model.train()
    pictures = quantised.model(**quantised.item_processor(items[:2]))
    (pictures[0] @ pictures[1]).backward()
    trained = {name: p for name, p in quantised.model.named_parameters() if p.requires_grad}
    assert any(p.grad is not None and p.grad.abs().max() > 0 for name, p in trained.items() if "lora_B" in name)


def test_sentence_transformers(model: MLLMEmbedder, items: list, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model.save_pretrained(tmp_path / "saved")
    if model.processor.__class__.__mro__[1].__name__ == "ImageOnly" and not is_torchvision_available():
        pytest.skip("without torchvision, transformers' AutoProcessor does not load this family")
    if model.family.texts_apart:
        pytest.skip("the files refuse: sentence-transformers sends texts through the processor, which spoils them")
    theirs = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    picture, query, text = items[0], items[2], items[7]
    found = theirs.encode([picture.image, {"image": query.image, "text": query.instruction}])
    np.testing.assert_allclose(found, model.encode([picture, query]), **CLOSE)
    # apart: it puts texts and pictures into one batch, in which mllama's texts are not what they are alone
    np.testing.assert_allclose(theirs.encode([text.text]), model.encode([text]), **CLOSE)


def test_only_the_language_model_and_the_projector_train(folder: Path) -> None:
    model = MLLMEmbedder.from_pretrained(folder, dtype="float32")
    add_lora(model.model, LoraSpec(rank=4), model.family)
    trained = [name for name, parameter in model.model.named_parameters() if parameter.requires_grad]
    lora = [name for name in trained if "lora_" in name]
    assert lora and all("language_model" in name or "text_model" in name for name in lora)
    whole = [name for name in trained if "lora_" not in name]
    assert whole and all(set(name.split(".")) & set(model.family.projector) for name in whole)


def test_a_fifteenth_ordinary_family_needs_no_entry(items: list, tmp_path: Path) -> None:
    assert set(FAMILIES) <= set(TESTED) and "vipllava" not in TESTED
    model = MLLMEmbedder.from_pretrained(families.make("vipllava", tmp_path), dtype="float32")
    np.testing.assert_allclose(model.encode(items, packed=True), _alone(model, items), **CLOSE)
    add_lora(model.model, LoraSpec(rank=4), model.family)
    trained = [name for name, parameter in model.model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[3] for name in trained} == {"language_model", "multi_modal_projector"}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "phi4_multimodal"}, "'phi4_multimodal', which is not supported .*nearest that is: "),
        ({"model_type": "llama"}, "'llama', which is not supported .*nearest that is: mllama"),
        ({"model_type": "florence2", "is_encoder_decoder": True}, "'florence2', which is not supported"),
        ({"model_type": "qwen9_vl", "auto_map": {"AutoModel": "x.Y"}}, "none is run.*nearest that is: qwen"),
        ({}, "'unknown', which is not supported"),
    ],
)
def test_another_kind_of_model_gets_a_sentence(tmp_path: Path, config: dict, why: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=why) as caught:
        MLLMEmbedder.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
