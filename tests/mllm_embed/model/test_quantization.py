"""Quantised models compute what their weights say, whatever was done before: evaluated, saved, trained, in any order.

bitsandbytes' fault (see `quantization.cure`) fires only on a CPU with bfloat16 instructions; `bfloat16_cpu` makes it
believe that it runs on one, so that these tests fail without the cure on every CPU.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mllm_embed import Document, MLLMEmbedder, Query
from mllm_embed.errors import ConfigError, ModelError
from mllm_embed.eval.cli import main as evaluate
from mllm_embed.model.families import Family
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.model.quantization import QUANTIZATIONS, quantization_config

bnb = pytest.importorskip("bitsandbytes")
LAYERS = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
ORDERS = ("train", "evaluate train", "save train", "evaluate save train", "evaluate save evaluate train", "train train")


@pytest.fixture(autouse=True)
def bfloat16_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)


@pytest.fixture
def items(data: Path) -> list[Query | Document]:
    pictures = [data / f"images/{number}.png" for number in range(4)]
    queries = [Query(image=p, instruction=f"make it {'very ' * n}red") for n, p in enumerate(pictures)]
    return [*queries, *(Document(image=p) for p in pictures), Document(text="a red hat"), Document(text="blue")]


def _load(folder: Path, mode: str | None, adapted: bool = True) -> MLLMEmbedder:
    embedder = MLLMEmbedder.from_pretrained(folder, dtype="float32", quantization=mode, device="cpu")
    if adapted:
        torch.manual_seed(0)
        add_lora(embedder.model, LoraSpec(rank=4, dropout=0.0), embedder.family)
        for name, parameter in embedder.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    return embedder


def _weights(embedder: MLLMEmbedder) -> dict[str, Tensor]:
    """Each quantised layer's weights as floats, by bitsandbytes' own functions."""
    found = {}
    for name, layer in embedder.model.base.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            found[name] = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        elif isinstance(layer, bnb.nn.Linear8bitLt):
            scale = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
            found[name] = bnb.functional.int8_vectorwise_dequant(layer.weight.data, scale)
    return {name.replace(".base_layer", ""): weight.float() for name, weight in found.items()}


def _dequantised(folder: Path, mode: str, adapted: bool = True) -> MLLMEmbedder:
    """A plain float32 model with the weights that quantising left, and the same adapter."""
    weights = _weights(_load(folder, mode, adapted=False))
    plain = MLLMEmbedder.from_pretrained(folder, dtype="float32", device="cpu")
    for name, weight in weights.items():
        plain.model.base.get_submodule(name).weight.data = weight
    if adapted:
        source = dict(_load(folder, mode).model.named_parameters())
        torch.manual_seed(0)
        add_lora(plain.model, LoraSpec(rank=4, dropout=0.0), plain.family)
        for name, parameter in plain.model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(source[name])
    return plain


def _gradients(embedder: MLLMEmbedder, items: list[Query | Document]) -> dict[str, Tensor]:
    embedder.model.train()
    embedder.model.zero_grad()
    kinds = [[item for item in items if bool(item.images) == pictures] for pictures in (True, False)]
    vectors = torch.cat([embedder.model(**embedder.item_processor(kind)) for kind in kinds])
    torch.logsumexp(vectors[:4] @ vectors[4:].T / 0.05, dim=1).mean().backward()
    return {name: p.grad.clone() for name, p in embedder.model.named_parameters() if p.grad is not None}


def _do(order: str, embedder: MLLMEmbedder, items: list[Query | Document], folder: Path) -> dict[str, Tensor]:
    actions: dict[str, Callable[[], object]] = {
        "evaluate": lambda: embedder.encode(items),
        "save": lambda: embedder.save_pretrained(folder / "saved"),
        "train": lambda: _gradients(embedder, items),
    }
    return [actions[word]() for word in order.split()][-1]


def _distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert found.keys() == wanted.keys() and all(g.abs().max() > 0 for g in wanted.values())
    return max(((found[name] - g).norm() / g.norm()).item() for name, g in wanted.items())


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_gradients_are_those_of_the_dequantised_model(
    tiny_llava: Path, items: list[Query | Document], tmp_path: Path, mode: str, order: str
) -> None:
    wanted = _gradients(_dequantised(tiny_llava, mode), items)
    assert _distance(_do(order, _load(tiny_llava, mode), items, tmp_path), wanted) < 1e-4
    full = _gradients(_load(tiny_llava, None), items)
    assert _distance(full, wanted) > 1e-2  # what quantising changes is seen at this tolerance


@pytest.mark.parametrize("order", ORDERS[1:])
@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_what_was_done_before_changes_no_bit_of_a_gradient(
    tiny_llava: Path, items: list[Query | Document], tmp_path: Path, mode: str, order: str
) -> None:
    direct = _do("train", _load(tiny_llava, mode), items, tmp_path)
    later = _do(order, _load(tiny_llava, mode), items, tmp_path)
    assert all(torch.equal(later[name], gradient) for name, gradient in direct.items())


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_vectors_are_those_of_the_dequantised_model_in_any_batch_and_after_a_save(
    tiny_llava: Path, items: list[Query | Document], tmp_path: Path, mode: str, adapted: bool
) -> None:
    wanted = _dequantised(tiny_llava, mode, adapted).encode(items)
    embedder = _load(tiny_llava, mode, adapted)
    stored = {name: tensor.clone() for name, tensor in embedder.model.state_dict().items()}
    first = embedder.encode(items)
    np.testing.assert_allclose(first, wanted, atol=1e-5)
    if adapted:
        embedder.save_pretrained(tmp_path / "adapter")
        np.testing.assert_array_equal(embedder.encode(items), first)
    np.testing.assert_allclose(embedder.encode(items, batch_size=1), wanted, atol=1e-5)
    after = embedder.model.state_dict()
    assert stored.keys() == after.keys() and all(torch.equal(after[name], t) for name, t in stored.items())


@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_gradient_checkpointing_changes_no_gradient(tiny_llava: Path, items: list[Query | Document], mode: str) -> None:
    embedder = _load(tiny_llava, mode)
    plain = _gradients(embedder, items)
    embedder.model.gradient_checkpointing_enable()
    checkpointed = _gradients(embedder, items)
    assert all(torch.equal(checkpointed[name], gradient) for name, gradient in plain.items())


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForImageTextToText"])
@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_the_language_model_alone_is_quantised(tiny_llava: Path, mode: str, auto: str) -> None:
    import transformers

    model = getattr(transformers, auto).from_pretrained(
        tiny_llava,
        quantization_config=quantization_config(mode, Family(), torch.float32),
        dtype=torch.float32,
        device_map={"": "cpu"},
    )
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantised = {name for name, module in model.named_modules() if isinstance(module, LAYERS)}
    assert quantised == {name for name in linear if "language_model" in name} and len(quantised) == 14
    assert any("vision_tower" in name for name in linear) and any("projector" in name for name in linear)


@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_a_merged_model_is_made_from_the_unquantised_base(
    tiny_llava: Path, items: list[Query | Document], tmp_path: Path, mode: str
) -> None:
    embedder = _load(tiny_llava, mode)
    embedder.save_pretrained(tmp_path / "adapter")
    embedder.save_pretrained(tmp_path / "merged", merge=True)
    full = MLLMEmbedder.from_pretrained(tiny_llava, adapter=tmp_path / "adapter", dtype="float32").encode(items)
    merged = MLLMEmbedder.from_pretrained(tmp_path / "merged", dtype="float32")
    assert merged.quantization is None and not merged.model.adapted
    np.testing.assert_allclose(merged.encode(items), full, atol=1e-5)
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    again = MLLMEmbedder.from_pretrained(tiny_llava, adapter=tmp_path / "adapter", dtype="float32", quantization=mode)
    np.testing.assert_array_equal(again.encode(items), embedder.encode(items))


def test_without_an_adapter_the_base_itself_is_saved(
    tiny_llava: Path, items: list[Query | Document], tmp_path: Path
) -> None:
    _load(tiny_llava, "nf4", adapted=False).save_pretrained(tmp_path / "copy")
    wanted = _load(tiny_llava, None, adapted=False).encode(items)
    np.testing.assert_array_equal(
        MLLMEmbedder.from_pretrained(tmp_path / "copy", dtype="float32").encode(items), wanted
    )


@pytest.mark.parametrize("mode", QUANTIZATIONS)
def test_a_base_that_is_stored_quantised_is_cured_and_merges_into_nothing(
    tiny_llava: Path, items: list[Query | Document], tmp_path: Path, mode: str
) -> None:
    source = _load(tiny_llava, mode, adapted=False)
    source.model.base.save_pretrained(tmp_path / "stored")
    source.processor.save_pretrained(tmp_path / "stored")
    stored = _load(tmp_path / "stored", None)
    assert stored.quantization == mode
    wanted = _do("train", _load(tiny_llava, mode), items, tmp_path)
    assert _distance(_do("evaluate save train", stored, items, tmp_path), wanted) < 1e-4
    with pytest.raises(ModelError, match=f"is stored in {mode}, into which nothing can be merged"):
        stored.save_pretrained(tmp_path / "merged", merge=True)
    assert not (tmp_path / "merged").exists()


def test_layers_that_bitsandbytes_reads_wrongly_are_refused(tiny_llava: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    shutil.copytree(tiny_llava, tmp_path / "odd")
    config = AutoConfig.from_pretrained(tiny_llava)
    config.text_config.intermediate_size = 96
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "odd")
    with pytest.raises(ModelError, match=r"layers.0.mlp.down_proj has 96 inputs.*use int8"):
        _load(tmp_path / "odd", "nf4")
    assert _load(tmp_path / "odd", "int8").quantization == "int8"


def test_mistakes_are_one_sentence(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="quantization 'int4' is not known; use nf4 or int8"):
        _load(tiny_llava, "int4")
    with monkeypatch.context() as patch:
        patch.setattr(bnb, "supported_torch_devices", {"cuda"})
        with pytest.raises(ConfigError, match="cannot compute in nf4 on the device 'cpu'"):
            _load(tiny_llava, "nf4")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"'int8' needs bitsandbytes; pip install 'mllm_embed\[quantized\]'"):
        _load(tiny_llava, "int8")


def test_the_command_line_says_what_it_computed_in(
    tiny_llava: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["run", str(data), "--model", str(tiny_llava), "--dtype", "float32", "--output", str(tmp_path / "out")]
    with caplog.at_level(logging.WARNING):
        assert evaluate([*words, "--quantization", "int8"]) == 0
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")]
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert (result["dtype"], result["quantization"]) == ("float32", "int8")


@pytest.mark.slow
def test_only_two_sentences_of_bitsandbytes_are_kept_back(tiny_llava: Path, caplog: pytest.LogCaptureFixture) -> None:
    _load(tiny_llava, "int8", adapted=False)
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    logger.warning("MatMul8bitLt: inputs will be cast from %s to float16 during quantization", torch.bfloat16)
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records if record.name == logger.name] == ["something else"]
    code = """if True:
        import logging
        from mllm_embed.model.lora import import_peft
        import_peft()
        logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
        print(logger.level, logger.filters)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == f"{logging.NOTSET} []" and "gemm_4bit_forward" not in done.stderr, done.stderr
