"""A tiny real model whose plans can be held back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_embed import MLLMEmbedder
from servers.queueing import Gate


@pytest.fixture(scope="package")
def model(tiny_llava: Path) -> MLLMEmbedder:
    return MLLMEmbedder.from_pretrained(tiny_llava, dtype="float32", device="cpu")


@pytest.fixture
def gate(model: MLLMEmbedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(model)
    monkeypatch.setattr(model, "plan", gate)
    yield gate
    gate.open.set()
