"""What a saved folder says is what is computed, and vectors of another processor or adapter setting are told apart."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

import families
from mllm_embed import MLLMEmbedder, Query, Searcher, VectorStore
from mllm_embed.data.sources import open_sources
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.model.processor_loading import load_processor
from mllm_embed.saving.checkpoint import weights_digest
from mllm_embed.saving.identity import processor_parts
from mllm_embed.saving.provenance import SPACE_FIELDS, VECTOR_FIELDS, check_same
from mllm_embed.store.extract import encode_sources

ASSETS = Path(__file__).parents[3] / "scripts/assets"
END = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def _ours(folder: Path, **options: Any) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu", **options)


def _inputs(tmp_path: Path) -> list[Any]:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    path = tmp_path / "picture.png"
    return ["a red hat", path, Query(path, "in blue")]


def _theirs(folder: Path, inputs: list[Any]) -> np.ndarray:
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    query = {"image": str(inputs[2].image), "text": inputs[2].instruction}
    return np.concatenate([model.encode([one]) for one in (inputs[0], str(inputs[1]), query)])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with room for more tokens; sentence-transformers reads the second without torchvision."""
    from transformers import AutoModelForImageTextToText

    home = tmp_path_factory.mktemp("families")
    found = {family: families.make(family, home / family) for family in ("qwen2_vl", "idefics3")}
    for folder in found.values():
        model = AutoModelForImageTextToText.from_pretrained(folder)
        model.resize_token_embeddings(model.config.text_config.vocab_size + 8)
        model.save_pretrained(folder)
    return found


def _other_end(processor: Any) -> None:
    processor.chat_template = processor.chat_template.replace(END, "<|assistant|>\n\n \n")


def _smaller(processor: Any) -> None:
    sizes = dict(processor.image_processor.size)
    processor.image_processor.size = {name: size // 2 for name, size in sizes.items() if size}


def _other_mean(processor: Any) -> None:
    processor.image_processor.image_mean = [0.1, 0.6, 0.3]


def _other_std(processor: Any) -> None:
    processor.image_processor.image_std = [0.9, 0.5, 0.2]


def _split_words(processor: Any) -> None:
    """A token of its own for a word; its number is that of a row of the base's embeddings."""
    processor.tokenizer.add_tokens(["hat"])


def _start(processor: Any) -> None:
    processor.chat_template = "{{ bos_token }}" + processor.chat_template
    processor.tokenizer.bos_token = "<|end|>"


CHANGES = {
    "chat template": _other_end,
    "size": _smaller,
    "image_mean": _other_mean,
    "image_std": _other_std,
    "tokenizer": _split_words,
    "another tokenizer": _start,
}


def _adapted(base: Path, change: Callable[[Any], None] | None = None) -> MLLMEmbedder:
    embedder = _ours(base)
    if change:
        change(embedder.processor)
    embedder = MLLMEmbedder(embedder.model, embedder.processor, embedder.settings)
    add_lora(embedder.model, LoraSpec(rank=4, dropout=0), embedder.family)
    return embedder


@pytest.mark.parametrize(("change", "family"), [("size", "qwen2_vl"), *[(change, "idefics3") for change in CHANGES]])
def test_the_processor_that_was_saved_is_the_one_that_is_used(
    bases: dict[str, Path], tmp_path: Path, change: str, family: str
) -> None:
    inputs, base = _inputs(tmp_path), bases[family]
    embedder, plain = _adapted(base, CHANGES[change]), _adapted(base)
    expected = embedder.encode(inputs)
    assert np.abs(expected - plain.encode(inputs)).max() > 1e-2  # the change decides
    for folder, merge in ((tmp_path / "adapter", False), (tmp_path / "whole", True)):
        embedder.save_pretrained(folder, merge=merge)
        again = _ours(folder)
        np.testing.assert_allclose(again.encode(inputs), expected, atol=1e-5)
        if family == "idefics3":
            np.testing.assert_allclose(_theirs(folder, inputs), expected, atol=1e-5)
        with pytest.raises(ConfigError, match=change):
            check_same(plain.provenance | {"adapter": None}, again.provenance, ("processor",), "the store")
    again = _ours(base, adapter=tmp_path / "adapter")
    np.testing.assert_allclose(again.encode(inputs), expected, atol=1e-5)


def test_a_store_is_neither_filled_nor_searched_by_another_processor(
    tiny_llava: Path, data: Path, tmp_path: Path, embedder: MLLMEmbedder
) -> None:
    """The base's own, too, which no fingerprint of weights sees."""
    encode_sources(embedder, open_sources([data / "images"]), tmp_path / "s", show_progress=False)
    for change, said in ((_other_end, "chat template"), (_other_mean, "image_mean"), (_start, "tokenizer")):
        folder = Path(shutil.copytree(tiny_llava, tmp_path / change.__name__))
        processor = load_processor(str(folder))
        change(processor)
        processor.save_pretrained(folder)
        other = _ours(folder)
        with pytest.raises(ConfigError, match=said):
            encode_sources(other, open_sources([data / "images"]), tmp_path / "s", show_progress=False)
        with pytest.raises(ConfigError, match=said):
            Searcher.open(other, tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_alpha": 1}, r"adapter_settings\.lora_alpha: 64, now 1"),
        ({"use_rslora": True}, r"adapter_settings\.use_rslora: null, now true"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"use_dora": True}, "asks for more than"),
        ({"lora_bias": True}, "asks for more than"),
        ({"target_modules": r".*language_model.*q_proj"}, "holds more than its adapter_config.json takes"),
        ({"layers_to_transform": [0], "target_modules": ["q_proj"]}, "asks for more than"),
        ({"target_modules": ["q_proj"], "layer_replication": [[0, 1]]}, "holds more than|does not fit"),
        ({"modules_to_save": None}, "holds more than"),
        ({"exclude_modules": ["k_proj"]}, "holds more than"),
        ({"r": 8}, "does not fit this model"),
        ({"target_modules": ["no_proj"]}, "does not fit this model"),
        ({"target_modules": "(unclosed"}, "does not fit this model"),
        ({"peft_type": "NOISE"}, "peft_type is 'NOISE'"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"lora_alpha": "much"}, "lora_alpha in .* is 'much', which is no value of it"),
        ({"r": -1}, "does not fit this model"),
        ({"r": True}, "r in .* is True"),
        ({"rank_pattern": 5}, "rank_pattern in .* is 5"),
        ({"alpha_pattern": {"q_proj": "3"}}, "does not fit this model"),
        ({"use_rslora": "no"}, "use_rslora in .* is 'no'"),
        ({"use_rslora": 1}, "use_rslora in .* is 1"),
        ({"use_dora": []}, r"use_dora in .* is \[\]"),
        ({"alora_invocation_tokens": True}, "alora_invocation_tokens in .* is True"),
        ({"alora_invocation_tokens": [5]}, "waits for tokens"),
        ({"use_rsLora": True}, "the option 'use_rsLora', which peft .* does not know"),
        ({"base_model_name_or_path": 3}, "is 3, not the name of a model"),
        ({"base_model_name_or_path": None}, "is not there"),
    ],
)
def test_an_adapters_settings_decide_or_do_not_fit(
    tiny_llava: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """What peft takes in silence, leaving out tensors or starting missing ones anew, is refused."""
    embedder = _ours(tiny_llava)
    add_lora(embedder.model, LoraSpec(rank=4, alpha=64, dropout=0), embedder.family)
    embedder.save_pretrained(tmp_path / "a")
    before = _ours(tmp_path / "a").provenance
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises((ConfigError, ModelError), match=said) as caught:
        check_same(before, _ours(tmp_path / "a").provenance, SPACE_FIELDS, "the store")
    assert "\n" not in str(caught.value)


def test_a_change_inside_of_a_tensor_is_another_model(tmp_path: Path) -> None:
    """The fingerprint, by which adapters know their base, samples it."""
    base = Path(shutil.copytree(ASSETS / "base", tmp_path / "base"))
    adapter = ASSETS / "adapters/instructions"
    before = _ours(base, adapter=adapter).provenance
    data = bytearray((base / "model.safetensors").read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    start, end = header["language_model.model.embed_tokens.weight"]["data_offsets"]
    data[8 + size + (start + end) // 2] ^= 8
    (base / "model.safetensors").write_bytes(data)
    now = _ours(base, adapter=adapter).provenance
    assert now["base"] == before["base"]
    with pytest.raises(ConfigError, match="made otherwise .weights: "):
        check_same(before, now, SPACE_FIELDS, "the store")
    assert before["weights"] == weights_digest(ASSETS / "base") and weights_digest("owner/model") is None


def test_what_does_not_decide_vectors_is_not_in_the_identity(
    saved_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_models["adapter"]
    embedder = _ours(folder)
    before = embedder.provenance
    embedder.encode(["a hat", "a longer text than the first"])  # pads
    embedder.processor.tokenizer("a hat", truncation=True, max_length=2)
    assert embedder.provenance == before
    assert embedder.merge_adapter().provenance == before
    embedder = _ours(folder)
    embedder.save_pretrained(tmp_path / "again")
    assert _ours(tmp_path / "again").provenance == before
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere/moved"))
    for name in ("adapter_config.json", "processor_config.json"):  # another order of keys, a comment of peft's
        values = json.loads((moved / name).read_text())
        values |= {"peft_version": "0.1"} if "peft_version" in values else {}
        (moved / name).write_text(json.dumps(dict(reversed(values.items())), indent=7))
    assert _ours(moved).provenance == before
    assert len(json.dumps(before)) < 4000


@pytest.mark.slow
@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_processor_saved_and_loaded_again_is_the_same(family: str, tmp_path: Path) -> None:
    base = families.make(family, tmp_path / "base")
    processor = load_processor(str(base))
    before = processor_parts(processor)
    processor.save_pretrained(tmp_path / "again")
    assert processor_parts(load_processor(str(tmp_path / "again"), base=str(base))) == before
    _other_mean(processor)
    assert processor_parts(processor) != before


@pytest.mark.parametrize("lacks", [("processor",), ("processor", "adapter_settings")])
def test_a_store_from_before_is_taken_with_a_word(
    embedder: MLLMEmbedder, tmp_path: Path, lacks: tuple[str, ...]
) -> None:
    old = {key: value for key, value in embedder.provenance.items() if key not in lacks}
    store = VectorStore.create(tmp_path / "s", embedder.dimension, provenance=old)
    store.add(["a"], np.eye(embedder.dimension, dtype=np.float32)[:1])
    with pytest.warns(UserWarning, match="did not record .*tokenizer, chat template and image processor"):
        Searcher.open(embedder, tmp_path / "s")
    with pytest.warns(UserWarning, match="cannot be checked"):  # a query encoder distilled before
        check_same(embedder.provenance, old, SPACE_FIELDS, "the gallery's model")
    with pytest.raises(ConfigError, match="base: "), pytest.warns(UserWarning):
        check_same(old | {"base": "x"}, embedder.provenance, VECTOR_FIELDS, "the store")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same(embedder.provenance, embedder.provenance, VECTOR_FIELDS, "the store")
