"""peft and transformers on saved folders: the same hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mllm_embed import Document, MLLMEmbedder, Query


@pytest.fixture
def batch(saved_models: dict[str, Path], data: Path) -> dict[str, torch.Tensor]:
    embedder = MLLMEmbedder.from_pretrained(saved_models["adapter"], dtype="float32")
    path = data / "images/0.png"
    return embedder.item_processor([Document(path, "a red hat"), Document(image=path), Query(path, "make it red")])


@pytest.fixture
def expected(saved_models: dict[str, Path], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return _states(MLLMEmbedder.from_pretrained(saved_models["adapter"], dtype="float32").model.backbone, batch)


def _states(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**batch).last_hidden_state


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_peft_loads_the_adapter(
    tiny_llava: Path, saved_models: dict[str, Path], batch: dict[str, torch.Tensor], expected: torch.Tensor
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    base = AutoModel.from_pretrained(tiny_llava)
    assert (_states(base, batch) - expected).abs().max() > 0.1
    _close(_states(PeftModel.from_pretrained(base, saved_models["adapter"]), batch), expected)


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_auto_classes_load_both_forms(
    saved_models: dict[str, Path], batch: dict[str, torch.Tensor], expected: torch.Tensor, form: str
) -> None:
    from transformers import AutoModel, AutoProcessor, AutoTokenizer

    _close(_states(AutoModel.from_pretrained(saved_models[form]), batch), expected)
    processor = AutoProcessor.from_pretrained(saved_models[form])
    assert AutoTokenizer.from_pretrained(saved_models[form])("a hat") == processor.tokenizer("a hat")


def test_a_tied_head_comes_back_with_the_merged_model(
    tiny_llava: Path, saved_models: dict[str, Path], batch: dict[str, torch.Tensor], expected: torch.Tensor
) -> None:
    """The head is no part of an embedder, but where it is the embedding matrix, as here, nothing is lost."""
    from transformers import AutoModelForImageTextToText

    model, found = AutoModelForImageTextToText.from_pretrained(saved_models["merged"], output_loading_info=True)
    assert not found["missing_keys"]
    _close(_states(model.model, batch), expected)
    base = AutoModelForImageTextToText.from_pretrained(tiny_llava)
    torch.testing.assert_close(model.lm_head.weight, base.lm_head.weight)


def test_a_head_of_its_own_does_not_come_back(tiny_llava: Path, tmp_path: Path) -> None:
    """What our README says of such models: generation needs the base and its adapter."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    config = AutoConfig.from_pretrained(tiny_llava, tie_word_embeddings=False)
    config.text_config.tie_word_embeddings = False
    AutoModelForImageTextToText.from_pretrained(tiny_llava, config=config).save_pretrained(tmp_path / "untied")
    AutoProcessor.from_pretrained(tiny_llava).save_pretrained(tmp_path / "untied")
    MLLMEmbedder.from_pretrained(tmp_path / "untied").save_pretrained(tmp_path / "out")
    _, found = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert found["missing_keys"] == {"lm_head.weight"}
