"""LoRA's options in every family: which layers get an update, of which kind, and that a saved one gives its vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import families
from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError
from mllm_embed.model.embedding_model import is_part
from mllm_embed.model.families import TESTED
from mllm_embed.model.lora import LoraSpec, add_lora

CLOSE = {"atol": 1e-5, "rtol": 0}
# What lies between tower and language model, by family. A parameter that belongs to no module that can be wrapped,
# `image_newline` of llava_next and llava_onevision, is an embedding like the words', and stays frozen like them.
BETWEEN = {family: {"multi_modal_projector"} for family in TESTED} | {
    "idefics3": {"connector"},
    "smolvlm": {"connector"},
    "qwen2_vl": {"visual.merger"},
    "qwen2_5_vl": {"visual.merger"},
    "qwen2_5_omni_thinker": {"visual.merger"},
    "qwen3_vl": {"visual.merger", "visual.deepstack_merger_list.0", "visual.deepstack_merger_list.1"},
    "embedding_gemma2": {"embed_vision"},
}
ALL_OPTIONS = LoraSpec(rank=4, dropout=0.0, vision=True, dora=True, rslora=True, alpha_pattern={"down_proj": 3.0})


@pytest.fixture(scope="module")
def items() -> list[Query | Document]:
    a, b = (_picture(*size, seed) for seed, size in enumerate(((64, 48), (96, 40))))
    return [Document(image=a), Query(image=b, instruction="make it red"), Query(image=a, instruction="make it blue")]


def _picture(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def _adapted(folder: Path, spec: LoraSpec, quantization: str | None = None) -> MLLMEmbedder:
    embedder = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu", quantization=quantization)
    torch.manual_seed(0)
    add_lora(embedder.model, spec, embedder.family)
    for name, parameter in embedder.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return embedder


def _trained(embedder: MLLMEmbedder) -> dict[str, nn.Parameter]:
    named = embedder.model.backbone.named_parameters()
    return {name.removeprefix("base_model.model."): p for name, p in named if p.requires_grad}


def _ranks(embedder: MLLMEmbedder) -> dict[str, int]:
    trained = _trained(embedder).items()
    return {name.split(".lora_A")[0]: len(p) for name, p in trained if ".lora_A." in name}


def test_all_that_lies_between_tower_and_language_model_trains(family: str, folder: Path) -> None:
    names = _trained(_adapted(folder, LoraSpec(rank=2)))
    assert {name.split(".modules_to_save")[0] for name in names if "lora_" not in name} == BETWEEN[family]


def test_every_trained_layer_gets_a_gradient_and_saved_gives_the_same_vectors(
    folder: Path, items: list, tmp_path: Path
) -> None:
    """The tower's layers too, those that pictures go through alone; by our loader, by peft alone, and merged."""
    embedder = _adapted(folder, ALL_OPTIONS)
    family, trained = embedder.family, _trained(embedder)
    embedder.model.train()
    embedder.model(**embedder.item_processor(items)).sum(0).square().sum().backward()
    # the tiny model's second merger joins its features to states behind the last layer that anything looks at
    silent = {name for name, p in trained.items() if p.grad is None or not p.grad.abs().max()}
    assert all("deepstack_merger_list.1." in name for name in silent)
    tower = [name for name in trained if is_part(name, family.vision) and not is_part(name, family.projector)]
    assert {kind for name in tower for kind in ("lora_A", "lora_B", "lora_magnitude") if kind in name} == {
        "lora_A", "lora_B", "lora_magnitude",
    }  # fmt: skip
    assert not any(is_part(name, family.beside_tower) for name in tower)
    embedder.model.eval()
    vectors = embedder.encode(items)
    embedder.save_pretrained(tmp_path / "adapter")
    loaded = MLLMEmbedder.from_pretrained(tmp_path / "adapter", dtype="float32")
    np.testing.assert_array_equal(loaded.encode(items), vectors)
    np.testing.assert_allclose(np.concatenate([loaded.encode([item]) for item in items]), vectors, **CLOSE)
    np.testing.assert_allclose(loaded.merge_adapter().encode(items), vectors, **CLOSE)
    np.testing.assert_array_equal(_by_peft_alone(folder, tmp_path / "adapter").encode(items), vectors)


def _by_peft_alone(base: Path, adapter: Path) -> MLLMEmbedder:
    from peft import PeftModel

    embedder = MLLMEmbedder.from_pretrained(base, dtype="float32")
    embedder.model.backbone = PeftModel.from_pretrained(embedder.model.backbone, str(adapter))
    embedder.model.eval()
    return embedder


def test_without_options_an_adapter_is_what_it_was(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    add_lora(embedder.model, LoraSpec(), embedder.family)
    embedder.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["target_modules"] == (
        r"(?!(.*\.)?(vision_tower|vision_model|visual|vision_encoder|image_tower|multi_modal_projector|connector|"
        r"mm_projector|aligner|merger)\.).*\.(down_proj|gate_proj|k_proj|o_proj|q_proj|up_proj|v_proj)"
    )
    assert config["modules_to_save"] == ["multi_modal_projector"] and not config["rank_pattern"]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"targets": ["q_proj"]}, {"0.self_attn.q_proj": 4, "1.self_attn.q_proj": 4}),
        ({"targets": ["v_proj", r"layers\.1\.mlp\..*"]}, {
            "0.self_attn.v_proj": 4, "1.self_attn.v_proj": 4, "1.mlp.gate_proj": 4, "1.mlp.up_proj": 4,
            "1.mlp.down_proj": 4,
        }),
        ({"targets": ["q_proj"], "rank_pattern": {r"layers\.0\..*": 2}}, {
            "0.self_attn.q_proj": 2, "1.self_attn.q_proj": 4,
        }),
        ({"targets": ["q_proj"], "vision": ["fc1"], "rank_pattern": {"fc1": 1}}, {
            "0.self_attn.q_proj": 4, "1.self_attn.q_proj": 4, "0.mlp.fc1": 1, "1.mlp.fc1": 1,
        }),
    ],
)  # fmt: skip
def test_patterns_choose_layers_and_ranks(tiny_llava: Path, keys: dict, found: dict[str, int]) -> None:
    ranks = _ranks(_adapted(tiny_llava, LoraSpec(rank=4, projector=False, **keys)))
    assert {name.split("layers.")[1]: rank for name, rank in ranks.items()} == found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"targets": ["q_prj"]},
            "lora.targets: 'q_prj' fits no linear layer of the language model; did you mean 'q_",
        ),
        ({"targets": ["qkv_all"]}, "fits no linear layer of the language model; their last names are down_proj, gate"),
        ({"targets": ["q_proj", "fc1"]}, "lora.targets: 'fc1' fits no linear layer of the language model"),
        ({"targets": ["(q_proj"]}, r"lora.targets: '\(q_proj' is no regular expression"),
        ({"vision": ["qkv"]}, "lora.vision: 'qkv' fits no linear layer of the vision tower"),
        ({"vision": ["linear_1"]}, "lora.vision: 'linear_1' fits no linear layer of the vision tower"),
        ({"targets": ["q_proj"], "rank_pattern": {"v_proj": 2}}, "lora.rank_pattern: 'v_proj' fits no .* LoRA is put"),
        ({"alpha_pattern": {"fc1": 2.0}}, "lora.alpha_pattern: 'fc1' fits no linear layer that LoRA is put on"),
    ],
)
def test_a_pattern_that_fits_nothing_is_told(embedder: MLLMEmbedder, keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        add_lora(embedder.model, LoraSpec(**keys), embedder.family)
    assert not embedder.model.adapted


@pytest.mark.parametrize("vision", [False, True])
def test_dropout_reaches_the_tower_where_it_is_trained(tiny_llava: Path, vision: bool) -> None:
    model = _adapted(tiny_llava, LoraSpec(rank=4, dropout=0.5, vision=vision)).model.train()
    family = model.family
    inside = {name: module for name, module in model.named_modules() if is_part(name, family.vision)}
    tower = [module for name, module in inside.items() if not is_part(name, family.beside_tower)]
    assert {module.training for module in tower} == {vision}
    dropouts = [module for module in tower if isinstance(module, nn.Dropout) and module.p == 0.5]
    assert bool(dropouts) == vision


def test_a_tower_beside_one_that_hears_leaves_it_alone(tmp_path: Path) -> None:
    folder = families.make("qwen2_5_omni_thinker", tmp_path)
    model = _adapted(folder, LoraSpec(rank=2, dropout=0.5, vision=True)).model.train()
    assert not any("audio_tower" in name for name, p in model.named_parameters() if p.requires_grad)
    assert not any(module.training for name, module in model.named_modules() if "audio_tower" in name)


def test_dora_on_8_bits_is_refused(tiny_llava: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match="lora.dora does not go with int8; take nf4, or no quantization"):
        _adapted(tiny_llava, ALL_OPTIONS, "int8")
    _adapted(tiny_llava, ALL_OPTIONS).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"of DoRA \(use_dora\), which does not go with int8"):
        MLLMEmbedder.from_pretrained(tmp_path, quantization="int8")


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_on_a_quantised_base(tiny_llava: Path, items: list, tmp_path: Path, quantization: str) -> None:
    """DoRA reads the length of quantised weights: what it then learns holds when it is loaded again."""
    pytest.importorskip("bitsandbytes")
    spec = ALL_OPTIONS if quantization == "nf4" else replace(ALL_OPTIONS, dora=False)
    embedder = _adapted(tiny_llava, spec, quantization)
    embedder.model.train()
    embedder.model(**embedder.item_processor(items)).sum(0).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in _trained(embedder).values())
    embedder.model.eval()
    vectors = embedder.encode(items)
    embedder.save_pretrained(tmp_path)
    again = MLLMEmbedder.from_pretrained(tmp_path, dtype="float32", quantization=quantization)
    np.testing.assert_array_equal(again.encode(items), vectors)
    cosines = (MLLMEmbedder.from_pretrained(tmp_path, dtype="float32").encode(items) * vectors).sum(1)
    assert cosines.min() > 0.8
