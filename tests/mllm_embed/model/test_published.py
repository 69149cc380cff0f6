"""Models in the form in which embedders are published give the vectors of a plain forward: tokenised by their own
processor, numbered as stated, pooled, normalised; and the same alone, in a batch, with shared prefixes and packed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import AutoModel

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ModelError
from mllm_embed.generate.generator import Generator, Question
from mllm_embed.model.processor_loading import load_processor
from published import KINDS, make_published, two_pictures

CLOSE = {"atol": 1e-5, "rtol": 0}
GRIDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni")  # whose pictures' tokens have places on a grid
# a picture's words alone make its turn, so that the model's own template is not asked (the presets do)
OWN_TEMPLATE = tuple(kind for kind in KINDS if kind != "llava_phi3")

Reference = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_published(kind, tmp_path_factory.mktemp("published") / kind)
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def items() -> list[Query | Document]:
    """Every role, two pictures of odd sizes, what begins alike and what is padded."""
    wide, high = two_pictures()
    return [
        Document(wide), Document(high), Query(wide, "make it red"), Query(wide, "make it red, in words of some length"),
        Query([wide, high], "both"), Document(high, "a caption\nof two lines"), Document(text="a hat 2026"),
        Document(text="another caption, much longer than the first of them, so that padding is needed"),
        Query(text="a red hat", instruction="make it blue"),
    ]  # fmt: skip


def _embedder(folder: Path, **options: Any) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu", **options)


@cache
def _usual(folder: Path) -> MLLMEmbedder:
    """The model as it is asked by default, loaded once."""
    return _embedder(folder)


def _plain(folder: Path, items: list, pooled: Callable = lambda hidden: hidden[-1], **given: Callable) -> np.ndarray:
    """The vectors by transformers alone, input by input; `given` makes more model input of a base and its input."""
    base = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor, render = load_processor(str(folder)), _usual(folder).item_processor.render
    start = processor.tokenizer.bos_token
    vectors = []
    for item in items:
        text, pictures = render(item), list(item.images)
        batch = processor(
            text=[text], images=[pictures] if pictures else None, return_tensors="pt",
            add_special_tokens=not (start and text.startswith(start)),
        )  # fmt: skip
        more = {name: make(base, batch) for name, make in given.items()}
        with torch.no_grad():
            hidden = base(**{**batch, **more}, use_cache=False).last_hidden_state[0]
        vectors.append(normalize(pooled(hidden), dim=-1))
    return torch.stack(vectors).numpy()


def _same_every_way(model: MLLMEmbedder, items: list, expected: np.ndarray) -> None:
    alone = np.concatenate([model.encode([item]) for item in items])
    np.testing.assert_allclose(alone, expected, **CLOSE)
    for size in (3, len(items)):
        np.testing.assert_allclose(model.encode(items, batch_size=size), expected, **CLOSE)
    shared = [group for step in model.plan(items).steps if step.shared for group in step.groups]
    assert bool(shared) == model.model.shares_prefixes
    # packed for certain: `encode` packs what shares no prefix
    for shown in (True, False):
        rows = [number for number, item in enumerate(items) if bool(item.images) is shown]
        with torch.no_grad():
            packed = model.model(packed=True, **model.item_processor([items[row] for row in rows]))
        np.testing.assert_allclose(packed.numpy(), expected[rows], **CLOSE)


@pytest.mark.parametrize("kind", OWN_TEMPLATE)
def test_the_vectors_are_those_of_a_plain_forward(kind: str, folders: Callable, items: list) -> None:
    model = _usual(folders(kind))
    _same_every_way(model, items, _plain(folders(kind), items))


def _one_after_the_other(base: Any, batch: Any) -> torch.Tensor:
    return torch.arange(batch["input_ids"].shape[1]).expand(3, 1, -1)


@pytest.mark.parametrize("kind", GRIDS)
def test_positions_one_after_the_other(kind: str, folders: Callable, items: list) -> None:
    """As embedders had them whose code went past the base's own numbering: another vector wherever a picture is."""
    expected = _plain(folders(kind), items, position_ids=_one_after_the_other)
    model = _embedder(folders(kind), positions="sequential")
    _same_every_way(model, items, expected)
    apart = np.abs(expected - _usual(folders(kind)).encode(items)).max(1)
    assert [moved > 1e-3 for moved in apart] == [bool(item.images) for item in items]
    assert apart[[not item.images for item in items]].max() < 1e-5


@pytest.mark.parametrize("kind", ["llava_next_mistral", "mllama"])
def test_sequential_positions_change_nothing_without_a_grid(kind: str, folders: Callable, items: list) -> None:
    model = _embedder(folders(kind), positions="sequential")
    _same_every_way(model, items, _usual(folders(kind)).encode(items))


def _whole_mask(base: Any, batch: Any) -> dict[str, torch.Tensor]:
    length = batch["input_ids"].shape[1]
    return {"full_attention": torch.zeros(1, 1, length, length)}  # added to the scores


def _grid_positions(base: Any, batch: Any) -> torch.Tensor:
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    if "image_grid_thw" not in batch:
        return _one_after_the_other(base, batch)
    return base.get_rope_index(**{name: batch[name] for name in names if name in batch})[0]


@pytest.mark.parametrize(("kind", "positions"), [("qwen2_5_vl", "model"), ("qwen2_vl", "sequential")])
def test_attention_both_ways_and_the_mean_of_all(
    kind: str, positions: str, folders: Callable, items: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MoCa's form (and U-MARVEL's): every token sees every other, and all of them are averaged, template included."""
    numbered = {"model": _grid_positions, "sequential": _one_after_the_other}[positions]
    expected = _plain(
        folders(kind), items, lambda hidden: hidden.mean(0), attention_mask=_whole_mask, position_ids=numbered
    )
    model = _embedder(folders(kind), pooling="mean", bidirectional=True, positions=positions).model
    model_input = _usual(folders(kind)).item_processor  # without a mask of content, all tokens count
    for rows in ([0], [0, 1, 2, 3, 4, 5], [6], [6, 7, 8]):
        with torch.no_grad():
            vectors = model(**model_input([items[row] for row in rows])).numpy()
        np.testing.assert_allclose(vectors, expected[rows], **CLOSE)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen2_5_omni"])
def test_a_picture_is_looked_at_once_whatever_the_positions(
    kind: str, folders: Callable, items: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = items[:4]  # three of one picture, one of the other
    model = _embedder(folders(kind), bidirectional=True, positions="sequential")
    alone = np.concatenate([model.encode([item]) for item in shown])
    look, seen = model.model.base.get_image_features, []

    def counted(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **more: Any) -> Any:
        seen.append(len(image_grid_thw))
        return look(pixel_values, image_grid_thw, **more)

    monkeypatch.setattr(model.model.base, "get_image_features", counted)
    np.testing.assert_allclose(model.encode(shown), alone, **CLOSE)
    assert sum(seen) == 2


def test_a_processor_beside_an_adapter_makes_the_same_tokens(folders: Callable, tmp_path: Path) -> None:
    """Without a config beside it too, by which transformers tells which class reads Llama's tokens."""
    base, adapter = folders("llava_next_mistral"), tmp_path / "adapter"
    adapter.mkdir()
    for file in (*base.glob("*token*"), base / "preprocessor_config.json", base / "processor_config.json"):
        shutil.copy(file, adapter)
    text = "[INST] <image>\nmake it red \n <image> [/INST]"
    tokenizers = load_processor(str(base)).tokenizer, load_processor(str(adapter), base=str(base)).tokenizer
    assert tokenizers[0].tokenize(text) == tokenizers[1].tokenize(text)
    # a space before every piece between special tokens, beside the one that is there
    assert tokenizers[0].tokenize("<image> [/INST]")[:4] == ["<image>", "▁", "▁", "["]


def test_a_whole_omni_model_is_its_part_that_reads(folders: Callable, items: list, tmp_path: Path) -> None:
    """As Qwen2.5-Omni is published, with parts that speak; saved, it is the part alone."""
    thinker, whole = folders("qwen2_5_omni"), tmp_path / "whole"
    expected = _usual(thinker).encode(items)
    load_processor(str(thinker)).save_pretrained(whole)
    config = json.loads((thinker / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": config}))
    weights = {f"thinker.{name}": tensor for name, tensor in load_file(thinker / "model.safetensors").items()}
    save_file({**weights, "talker.bias": torch.zeros(1)}, whole / "model.safetensors", metadata={"format": "pt"})
    for folder in (thinker, whole):  # neither holds settings for videos, and other tools ask for the class
        assert load_processor(str(folder)).video_settings == {"video_processor_type": "Qwen2VLVideoProcessor"}
    model = _embedder(whole)
    np.testing.assert_allclose(model.encode(items), expected, **CLOSE)
    questions = [Question("what is red?", two_pictures()[:1]), Question("a hat")]
    said = [list(Generator(one).generate(questions, max_tokens=4)) for one in (model, _usual(thinker))]
    assert said[0] == said[1]
    model.save_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(_embedder(tmp_path / "saved").encode(items), expected, **CLOSE)


def test_an_encoder_has_vectors_of_its_own_length(folders: Callable, items: list, tmp_path: Path) -> None:
    model = _usual(folders("embedding_gemma2"))
    assert model.dimension == 48 != model.model.base.config.get_text_config().hidden_size
    model.save_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(_embedder(tmp_path / "saved").encode(items), model.encode(items), **CLOSE)
    with pytest.raises(ModelError, match="is an encoder, which has no language-model head: it cannot speak$"):
        Generator(model)
