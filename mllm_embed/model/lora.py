"""Adapters: LoRA on the language model, the projector trained in full, the vision tower frozen."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import ModelError
from .embedding_model import EmbeddingModel, is_part
from .families import Family
from .quantization import without_kernel_advice

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names


@dataclass(frozen=True)
class LoraSpec:
    """LoRA (arXiv 2106.09685): updates of rank `rank` scaled by `alpha / rank`; `projector` trains it in full."""

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.05
    projector: bool = True


def import_peft() -> None:
    """Import peft for the first time, quietly: it imports bitsandbytes, which would ask for a kernel."""
    with without_kernel_advice():
        import peft  # noqa: F401


def add_lora(model: EmbeddingModel, spec: LoraSpec, family: Family) -> None:
    """Freeze `model` and wrap its backbone with a new adapter on every linear layer of the language model.

    Trainable parameters are float32 whatever the dtype of the base. Raises ModelError when nothing can be adapted.
    """
    import_peft()
    from peft import LoraConfig, TaskType, get_peft_model

    outside = family.vision + family.projector
    linear = {n for n, m in model.backbone.named_modules() if isinstance(m, nn.Linear) and not is_part(n, outside)}
    suffixes = sorted({name.rsplit(".", 1)[-1] for name in linear} - {"lm_head"})
    if not suffixes:
        raise ModelError("found no linear layer outside the vision tower to put LoRA on")
    parts = {n.rsplit(".", 1)[-1] for n, _ in model.backbone.named_modules() if is_part(n, family.projector)}
    projector = [name for name in family.projector if name in parts]
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, task_type=TaskType.FEATURE_EXTRACTION,
        target_modules=rf"(?!(.*\.)?({'|'.join(map(re.escape, outside))})\.).*\.({'|'.join(suffixes)})",
        modules_to_save=projector if spec.projector and projector else None,
    )  # fmt: skip
    with _without_peft_warning():
        model.backbone = get_peft_model(model.backbone, config)
    _prepare(model)


def load_adapter(model: EmbeddingModel, path: str | Path, trainable: bool = False) -> None:
    """Put a saved adapter on `model`. Raises ModelError when the folder holds none or it does not fit."""
    import_peft()
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    from safetensors import SafetensorError

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (Path(path) / name).is_file():
            raise ModelError(f"{path} holds no adapter (no {name}); give the folder that training wrote")
    try:
        with _without_peft_warning():
            model.backbone = PeftModel.from_pretrained(model.backbone, str(path), is_trainable=trainable)
    except (RuntimeError, ValueError, TypeError, OSError, SafetensorError) as error:
        raise ModelError(f"the adapter in {path} does not fit this model: {str(error).splitlines()[0]}") from error
    if trainable:
        _prepare(model)
        # again, now into float32: the first time the projector was rounded to the base's dtype
        set_peft_model_state_dict(model.backbone, load_peft_weights(str(path), device="cpu"))


@contextmanager
def _without_peft_warning() -> Iterator[None]:
    """peft 0.21 asks transformers 5 for an attribute under its old name each time it wraps a model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _prepare(model: EmbeddingModel) -> None:
    """Keep what is trained in float32, whatever the dtype of the frozen base."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
