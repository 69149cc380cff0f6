"""The rows of a language model's head that belong to a few words: all that a re-ranker needs of it.

A head of 150 thousand words in an 8B model takes 1.2 GB; two rows take 16 KB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..model.loading import load_errors, read_json_of

_HEAD = "lm_head."
_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class WordLogits(nn.Module):
    """The logits of some words of a vocabulary at a hidden state."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None, cap: float | None = None):
        """Hold rows of a head, which are not trained.

        Args:
            weight: [n, H].
            bias: [n], nothing by default.
            cap: what logits are bounded by: cap * tanh(logit / cap), as Gemma does.
        """
        super().__init__()
        self.cap = cap
        # they belong to the base, and are saved with it
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", torch.zeros(len(weight)) if bias is None else bias.float(), persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return [B, n] float32 for states [B, H] after the final norm."""
        # a margin is the small difference of two logits: autocast would round both to half precision
        with torch.autocast(states.device.type, enabled=False):
            logits = states.float() @ self.weight.T + self.bias
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def word_logits(base: Any, name: str, revision: str | None, tokens: Sequence[int]) -> WordLogits:
    """Return the rows of the head of a loaded base that belong to some tokens.

    The head is looked for in the base's files; where there is none, and the config says that it is the embeddings' own
    matrix, the rows are taken from these.

    Args:
        base: the model, without its head and without an adapter's wrapper.
        name, revision: folder or hub id that it was loaded from.
        tokens: their numbers.

    Raises ModelError for a base without a head.
    """
    text = base.config.get_text_config()
    cap = getattr(text, "final_logit_softcapping", None)
    with load_errors(name):
        weight, bias = (_rows(name, revision, part, tokens) for part in ("weight", "bias"))
    if weight is None:
        tied = getattr(base.config, "tie_word_embeddings", False) or getattr(text, "tie_word_embeddings", False)
        if not tied:
            raise ModelError(f"{name} holds no language-model head ({_HEAD}weight): it cannot say yes or no")
        weight = base.get_input_embeddings().weight.detach()[list(tokens)].clone()
    return WordLogits(weight, bias, cap)


def _rows(name: str, revision: str | None, part: str, tokens: Sequence[int]) -> Tensor | None:
    """Return the rows of a part of the head in the files of a folder or hub id; None where they hold none."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    index = read_json_of(name, _INDEX, revision)
    file = _FILE
    if index is not None:
        file = next((file for key, file in index["weight_map"].items() if key.endswith(_HEAD + part)), "")
    path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False) if file else None
    if path is None:
        return None
    with safe_open(Path(path), "pt") as tensors:
        key = next((key for key in tensors.keys() if key.endswith(_HEAD + part)), None)  # noqa: SIM118
        if key is None:
            return None
        rows = tensors.get_slice(key)
        return torch.stack([rows[token] for token in tokens])
