"""The precision that "auto" means on each kind of processor, and names that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mllm_embed import MLLMEmbedder
from mllm_embed.errors import ConfigError
from mllm_embed.model.devices import bfloat16_pays, device_for, dtype_for


@pytest.mark.parametrize(("instructions", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_keeps_bfloat16_only_where_the_cpu_has_it(
    bf16_llava: Path, monkeypatch: pytest.MonkeyPatch, instructions: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    embedder = MLLMEmbedder.from_pretrained(bf16_llava, device="cpu")
    assert embedder.model.base.dtype == expected
    asked = MLLMEmbedder.from_pretrained(bf16_llava, device="cpu", dtype="bfloat16")
    assert asked.model.base.dtype == torch.bfloat16


@pytest.mark.parametrize("native", [True, False])
def test_emulated_bfloat16_does_not_pay_on_a_gpu_which_keeps_the_stored_precision(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert bfloat16_pays(torch.device("cuda")) == native
    assert dtype_for("auto", torch.device("cuda")) == "auto"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="dtype 'int7' is not known"):
        dtype_for("int7", torch.device("cpu"))
    for name in ("toaster", "meta", ""):
        with pytest.raises(ConfigError, match=f"device '{name}' cannot be used"):
            device_for(name)
