"""Saved folders: which base an adapter belongs to, what a save may replace, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ModelError
from mllm_embed.model.lora import LoraSpec, add_lora
from mllm_embed.saving.checkpoint import model_fingerprint


@pytest.fixture
def adapted(embedder: MLLMEmbedder) -> MLLMEmbedder:
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    return embedder


def _weights(folder: Path, changed: str | None = None) -> Path:
    """The layout of a merged LLaVA: frozen embeddings first, a frozen tower last, what training changed between."""
    sizes = {"a.embed_tokens": 3 << 19, "b.mlp": 3 << 19, "c.norm": 8, "d.vision_tower": 3 << 19}
    tensors = {name: torch.zeros(size) for name, size in sizes.items()}
    if changed:
        tensors[changed] += 1
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("changed", ["a.embed_tokens", "b.mlp", "c.norm", "d.vision_tower"])
def test_a_change_anywhere_in_the_weights_is_another_base(tmp_path: Path, changed: str) -> None:
    plain = model_fingerprint(_weights(tmp_path / "plain"))
    assert model_fingerprint(_weights(tmp_path / "same")) == plain
    assert model_fingerprint(_weights(tmp_path / "other", changed)) != plain


def test_another_config_is_another_base(tmp_path: Path) -> None:
    before = model_fingerprint(_weights(tmp_path / "a"))
    (tmp_path / "a/config.json").write_text('{"x": 1}')
    assert model_fingerprint(tmp_path / "a") != before


def test_saving_never_removes_what_is_not_an_earlier_save(adapted: MLLMEmbedder, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="mine holds other files"):
        adapted.save_pretrained(tmp_path / "mine")
    with pytest.raises(ModelError, match="is a file"):
        adapted.save_pretrained(tmp_path / "file")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "mine", "thesis.txt"]


def test_an_earlier_save_and_an_empty_folder_are_replaced(adapted: MLLMEmbedder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    adapted.save_pretrained(out)
    adapted.save_pretrained(out, merge=True)
    assert (out / "config.json").is_file() and not (out / "adapter_config.json").exists()


def test_an_adapter_does_not_replace_its_base(embedder: MLLMEmbedder, tmp_path: Path) -> None:
    embedder.save_pretrained(tmp_path / "base")
    again = MLLMEmbedder.from_pretrained(tmp_path / "base")
    add_lora(again.model, LoraSpec(rank=4), again.family)
    with pytest.raises(ModelError, match="is the base of this adapter"):
        again.save_pretrained(tmp_path / "base")
    assert (tmp_path / "base/model.safetensors").is_file()


def test_a_relative_base_is_kept_as_given(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_llava.parent)
    embedder = MLLMEmbedder.from_pretrained(tiny_llava.name)
    add_lora(embedder.model, LoraSpec(rank=4), embedder.family)
    embedder.save_pretrained(tmp_path / "out")
    for name in ("mllm_embed.json", "adapter_config.json"):
        assert str(tiny_llava.parent) not in (tmp_path / "out" / name).read_text()
    assert MLLMEmbedder.from_pretrained(tmp_path / "out").settings.base == tiny_llava.name


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff", b'{"format": 1}', b'{"format": 1, "base": null, "prompts": {}}']
)
def test_damaged_settings_are_named(adapted: MLLMEmbedder, tmp_path: Path, content: bytes) -> None:
    adapted.save_pretrained(tmp_path / "out")
    (tmp_path / "out/mllm_embed.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"out/mllm_embed\.json is damaged"):
        MLLMEmbedder.from_pretrained(tmp_path / "out")


def test_settings_of_a_newer_format_ask_for_an_update(adapted: MLLMEmbedder, tmp_path: Path) -> None:
    adapted.save_pretrained(tmp_path / "out")
    file = tmp_path / "out/mllm_embed.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ModelError, match="format 99.*update mllm_embed"):
        MLLMEmbedder.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("merge", "name"),
    [(False, "adapter_model.safetensors"), (False, "adapter_config.json"), (True, "model.safetensors")],
)
def test_truncated_files_give_a_sentence(adapted: MLLMEmbedder, tmp_path: Path, merge: bool, name: str) -> None:
    adapted.save_pretrained(tmp_path / "out", merge=merge)
    file = tmp_path / "out" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError, match="out") as caught:
        MLLMEmbedder.from_pretrained(tmp_path / "out")
    assert "\n" not in str(caught.value)
