"""Weights in 4 or 8 bits by bitsandbytes: what is quantised, and what must be mended before its layers can be trusted.

nf4 with doubly quantised scales is QLoRA's (arXiv 2305.14314), 4.13 bits a weight; int8 is LLM.int8()'s weights (arXiv
2208.07339), 8 bits and one scale a row. Vision tower, projector, embeddings, norms and LM head keep their precision.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ModelError
from .families import Family, family_of, reading_part

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig

    from ..encode.embedder import MLLMEmbedder

QUANTIZATIONS = ("nf4", "int8")
NF4_BLOCK = 64  # weights that share a scale in nf4


def quantization_config(mode: str, family: Family, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return what transformers is asked for: `mode` on every linear layer of the language model, products in
    `compute_dtype`.

    Raises ConfigError for a mode that does not exist.
    """
    from transformers import BitsAndBytesConfig

    check_mode(mode)
    parts = "|".join(map(re.escape, (*family.vision, *family.projector, "lm_head")))
    # transformers matches a pattern from the start of a module's name, which is another one under each auto class
    skip = [rf"(?:.*\.)?(?:{parts})"]
    if mode == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype, llm_int8_skip_modules=skip,
    )  # fmt: skip


def load_options(
    mode: str | None, name: str, dtype: str | torch.dtype, place: torch.device, revision: str | None = None
) -> dict[str, Any]:
    """Return arguments for `AutoModel.from_pretrained` by which weights are quantised as they are read; {} for None.

    Args:
        mode: one of QUANTIZATIONS, or None.
        name, revision: the model, a folder or hub id.
        dtype: of what is not quantised, and of products; "auto" for the checkpoint's.
        place: the device on which the weights come to lie.

    Raises ConfigError for an unknown mode, without bitsandbytes, or on a device that it does not serve; what
    `AutoConfig.from_pretrained` raises for a name that is no model.
    """
    if mode is None:
        return {}
    import torch
    from transformers import AutoConfig

    check_mode(mode)
    bnb = _bitsandbytes(mode)
    if place.type not in bnb.supported_torch_devices:
        raise ConfigError(f"bitsandbytes cannot compute in {mode} on the device '{place}'; leave quantization out")
    config = reading_part(AutoConfig.from_pretrained(name, revision=revision))
    stored = config.dtype if dtype == "auto" else dtype
    compute = stored if isinstance(stored, torch.dtype) else torch.float32
    return {
        "quantization_config": quantization_config(mode, family_of(config), compute),
        "device_map": {"": place},  # named, since transformers would prefer a GPU to the CPU that was asked for
    }


def check_mode(mode: str | None) -> None:
    """Raise ConfigError for anything but one of QUANTIZATIONS and None."""
    if mode is not None and mode not in QUANTIZATIONS:
        raise ConfigError(f"quantization '{mode}' is not known; use {' or '.join(QUANTIZATIONS)}, or leave it out")


def quantization_of(model: nn.Module) -> str | None:
    """Return the mode of a loaded backbone: "int8", "nf4" (or another 4-bit type that its folder stores), None."""
    if getattr(model, "is_loaded_in_8bit", False):
        return "int8"
    if not getattr(model, "is_loaded_in_4bit", False):
        return None
    config: Any = model.config
    return config.quantization_config.bnb_4bit_quant_type


@contextmanager
def without_kernel_advice() -> Iterator[None]:
    """Keep bitsandbytes, imported within, from asking for a package that downloads a kernel: `cure` closes its path.

    peft imports bitsandbytes wherever it is installed.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_is_no_kernel_advice)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_kernel_advice)


def _is_no_kernel_advice(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")


def _is_no_cast_notice(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")


def cure(model: nn.Module) -> None:
    """Mend bitsandbytes' layers after loading, so that what they computed before never changes what they compute.

    Three faults of bitsandbytes 0.50.2 on a CPU, each of them silent:

    - A 4-bit layer in eval mode rearranges its weights in place where the CPU has bfloat16 instructions, with scales
      rounded to bfloat16. A training step after that reads them in the old order, and so do all after `state_dict()`,
      which peft calls to save an adapter: gradients and vectors are noise from then on.
    - A 4-bit layer whose rows are no multiple of a block is read with the scales of other rows: ModelError.
    - An 8-bit layer in eval mode rounds its inputs too, apart from outliers that it looks for in the whole batch: a
      vector depends on what shares its batch, and is not the one that was trained. The layer's own way of training,
      which computes from the weights put back into floats, is exact in both respects and takes no longer. A GPU has
      no such way: there int8 stays LLM.int8() as published, inputs rounded.
    """
    if quantization_of(model) is None:
        return
    with without_kernel_advice():
        import bitsandbytes as bnb
    # int8's products go through float16, which bitsandbytes says at every one of them
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_no_cast_notice)

    class FromFloats(bnb.MatmulLtState):
        is_training = property(lambda self: True, lambda self, mode: None)

    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            _check_blocks(name, module)
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, bnb.nn.Linear8bitLt):
            module.state.__class__ = FromFloats


def _check_blocks(name: str, layer: nn.Linear) -> None:
    """Raise ModelError for a 4-bit layer on the CPU whose rows are no multiple of a block."""
    if layer.weight.device.type == "cpu" and layer.in_features % NF4_BLOCK:
        raise ModelError(
            f"{name} has {layer.in_features} inputs, and bitsandbytes computes 4-bit layers right on a CPU "
            f"only where {NF4_BLOCK} divides them; use int8"
        )


def full_precision(embedder: MLLMEmbedder) -> MLLMEmbedder:
    """Return the same adapter on its base read again unquantised, on the CPU: for merging, which 4 or 8 bits would
    round.

    Raises ModelError when the base is gone or not known, or is itself stored quantised.
    """
    settings, source = embedder.settings, embedder.settings.base
    if source is None:
        raise ModelError("which base the model was read from is not known, so it cannot be read again unquantised")
    with TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter" if embedder.model.adapted else None
        if adapter:
            embedder.save_pretrained(adapter)
        whole = type(embedder).from_pretrained(
            source, adapter=adapter, dtype=embedder.dtype, device="cpu", prompts=settings.prompts,
            pooling=settings.pooling, bidirectional=settings.bidirectional, revision=settings.base_revision,
            max_tokens=settings.max_tokens, truncate=settings.truncate,
        )  # fmt: skip
    if whole.quantization:
        raise ModelError(
            f"{source} is stored in {whole.quantization}, into which nothing can be merged; save an adapter"
        )
    # with the processor and settings as they are now, which may be others than those of the base's folder
    return type(embedder)(whole.model, embedder.processor, settings)


def _bitsandbytes(mode: str) -> Any:
    """Return the module. Raises ConfigError where it is not installed."""
    try:
        with without_kernel_advice():
            import bitsandbytes
    except (ImportError, OSError) as error:
        raise ConfigError(f"quantization '{mode}' needs bitsandbytes; pip install 'mllm_embed[quantized]'") from error
    return bitsandbytes
