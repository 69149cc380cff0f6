"""The embedding model: a Hugging Face base model without LM head, pooled and normalised."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .families import Family
from .pooling import last_token


class EmbeddingModel(nn.Module):
    """`backbone` is what `AutoModel` gives for an image-text model, perhaps wrapped by peft.

    Its `last_hidden_state` comes after the final norm and has one row a token, image placeholders included.
    """

    def __init__(self, backbone: nn.Module, family: Family):
        super().__init__()
        self.backbone = backbone
        self.family = family

    @property
    def base(self) -> nn.Module:
        """The backbone without its adapter's wrapper."""
        return getattr(self.backbone, "get_base_model", lambda: self.backbone)()

    @property
    def adapted(self) -> bool:
        """Whether the backbone wears an adapter."""
        return hasattr(self.backbone, "peft_config")

    def forward(self, **batch: Tensor) -> Tensor:
        """Model input as the processor makes it ([B, L] ids and mask, pixels, ...) -> [B, D] float32, L2-normalised."""
        dtype = self.base.dtype
        inputs = {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.items()}
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state
        return F.normalize(last_token(hidden, batch["attention_mask"]).float(), dim=-1)

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


def is_part(module_name: str, fragments: tuple[str, ...]) -> bool:
    """Whether a module lies in (or is) a part that one of the name fragments names."""
    return not set(module_name.split(".")).isdisjoint(fragments)
