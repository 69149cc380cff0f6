"""The embedding model: a Hugging Face base model without LM head, pooled and normalised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .families import Family
from .packing import pack, unpack
from .pooling import POOLINGS, Pooling
from .prefix_cache import SharedBatch, hidden_states
from .vision_features import seen_once


class EmbeddingModel(nn.Module):
    """`backbone` is what `AutoModel` gives for an image-text model, perhaps wrapped by peft.

    Its `last_hidden_state` comes after the final norm and has one row a token, image placeholders included.
    """

    def __init__(
        self,
        backbone: nn.Module,
        family: Family,
        pooling: Pooling = "last",
        bidirectional: bool = False,
        projection: nn.Linear | None = None,
    ):
        """`projection` makes vectors of another length. Raises ConfigError for a pooling that does not exist."""
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling '{pooling}' is not known; use {' or '.join(POOLINGS)}")
        self.backbone = backbone
        self.family = family
        self.pooling = pooling
        self.bidirectional = bidirectional
        self.projection = projection
        if bidirectional:
            look_both_ways(self.base, family)

    @property
    def base(self) -> nn.Module:
        """The backbone without its adapter's wrapper."""
        return getattr(self.backbone, "get_base_model", lambda: self.backbone)()

    @property
    def states_width(self) -> int:
        """Length of a pooled state."""
        return self.base.config.get_text_config().hidden_size

    @property
    def width(self) -> int:
        """Length of a whole vector."""
        return self.states_width if self.projection is None else self.projection.out_features

    @property
    def adapted(self) -> bool:
        """Whether the backbone wears an adapter."""
        return hasattr(self.backbone, "peft_config")

    def forward(self, packed: bool = False, **batch: Tensor) -> Tensor:
        """Model input as the processor makes it ([B, L] ids and mask, pixels, ...) -> [B, D] float32, L2-normalised.

        With mean pooling the batch holds `content_mask` too; `first_shown` [B] int64 tells where a row's picture stands
        first among the rows, and that it may be looked at once. `packed` lays several inputs in one row (packing.py);
        what cannot be packed, some families and bidirectional attention, is computed padded all the same.
        """
        return self._vectors(self.states(packed, **batch))

    def states(self, packed: bool = False, **batch: Tensor) -> Tensor:
        """What `forward` makes vectors of: the pooled hidden states [B, H] float32 after the final norm."""
        inputs = self._in_dtype(batch)
        content, mask = inputs.pop("content_mask", None), inputs["attention_mask"]
        first = inputs.pop("first_shown", None)
        if packed and self.family.packs and not self.bidirectional:
            rows, places = pack(inputs, self.base)
            hidden = unpack(self.backbone(**rows, use_cache=False).last_hidden_state, places, mask)
        else:
            seen = inputs if first is None else seen_once(self.base, inputs, first)
            hidden = self.backbone(**seen, use_cache=False).last_hidden_state
        return self._pooled(hidden, mask if content is None else content)

    def shared(self, batch: SharedBatch) -> Tensor:
        """Inputs that share beginnings -> [N, D] float32, L2-normalised: what `forward` gives, for less work.

        Raises ConfigError where beginnings look ahead (`shares` tells).
        """
        if not self.shares:
            raise ConfigError("this model's tokens see what comes after them: beginnings cannot be shared")
        inputs = replace(batch, beginnings=self._in_dtype(batch.beginnings))
        rows = torch.cat([part.rows for part in batch.endings])
        vectors = [
            self._pooled(hidden, batch.whole("attention_mask", part) if part.content is None else part.content)
            for part, hidden in zip(batch.endings, hidden_states(self.backbone, self.base, inputs), strict=True)
        ]
        return self._vectors(torch.cat(vectors)[rows.argsort()])

    @property
    def shares(self) -> bool:
        """Whether inputs that begin alike may share that part of the work."""
        return self.family.shares and not self.bidirectional

    def _in_dtype(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        dtype = self.base.dtype
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.items()}

    def _vectors(self, states: Tensor) -> Tensor:
        return F.normalize(states if self.projection is None else self.projection(states).float(), dim=-1)

    def _pooled(self, hidden: Tensor, chosen: Tensor) -> Tensor:
        return POOLINGS[self.pooling](hidden, chosen).float()

    def train(self, mode: bool = True) -> EmbeddingModel:
        """Train mode, but for the frozen vision tower, whose dropout stays off."""
        super().train(mode)
        for name, module in self.named_modules():
            if is_part(name, self.family.vision):
                module.eval()
        return self

    def gradient_checkpointing_enable(self) -> None:
        """Recompute activations in the backward pass: about a third more time, much less memory."""
        self.activation_checkpointing_enable()

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """The same under the name by which transformers' Trainer calls it; options as in `PreTrainedModel`."""
        # non-reentrant: gradients reach LoRA although the embeddings, the first layer's input, need none
        kwargs = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        self.base.activation_checkpointing_enable(kwargs, **options)
        if kwargs["use_reentrant"]:
            self.base.enable_input_require_grads()
        else:
            # transformers makes every embedding ask for a gradient, the patches' too: the frozen vision tower would
            # keep all its activations for a backward pass that changes nothing
            self.base.disable_input_require_grads()


def look_both_ways(base: nn.Module, family: Family) -> None:
    """Let the language model's attention see what comes after, as well as before.

    transformers makes such masks for a text config with `is_causal` false; flash attention, which takes no mask, goes
    by each layer's own flag.
    """
    base.config.get_text_config().is_causal = False
    for name, module in base.named_modules():
        if hasattr(module, "is_causal") and not is_part(name, family.vision):
            module.is_causal = False


def is_part(module_name: str, fragments: tuple[str, ...]) -> bool:
    """Whether a module lies in (or is) a part that one of the name fragments names."""
    return not set(module_name.split(".")).isdisjoint(fragments)
