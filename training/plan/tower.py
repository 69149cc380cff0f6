"""The memory of a vision tower that is trained: what its blocks keep for the backward pass.

Its code reads the pictures' grids as data, which fake tensors do not have, so this is a formula as in memory.py, with b
bytes a number, h the tower's width. For each patch a block with n norms keeps

- each norm's input in float32, and its output, once for all layers that read it: n (4 h + b h);
- what attention and the activation take, the outputs of all linear layers but the n that lead back to the residual
  stream; and what those n take, the attention's output and the widest input;
- of each layer with an update A's output, and where there is dropout its mask and the dropped input; where autocast
  computes in fewer bits, a copy of the input.

With gradient checkpointing it keeps its input alone, and one block is computed again at a time. Whatever the number of
patches, DoRA keeps products B A as large as the weights, and copies of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mllm_embed.model.embedding_model import EmbeddingModel, is_part

from .inputs import MicroBatch


def tower_bytes(
    model: EmbeddingModel, batches: Sequence[MicroBatch], size: int, checkpointing: bool, masks: int
) -> int:
    """Return what a trained tower keeps of these micro-batches for the backward pass; 0 for a frozen one.

    Args:
        model: on the meta device, with its adapter.
        batches: those that are alive at once.
        size: bytes of a number that linear layers take and give.
        checkpointing: whether blocks are computed again.
        masks: bytes of an entry of a dropout's mask.
    """
    patches = sum(batch.count * batch.patches for batch in batches if not batch.frozen)
    if not patches or not model.trains_vision:
        return 0
    blocks = _blocks(model)
    width = getattr(model.base.config.vision_config, model.family.tower_width)
    each = [_block_bytes(block, width, size, masks) for block in blocks]
    weights = sum(_weight_bytes(block, size) for block in blocks)
    if checkpointing:
        return weights + patches * (size * width * len(blocks) + max(each))
    return weights + patches * sum(each)


def _blocks(model: EmbeddingModel) -> list[nn.Module]:
    """Return the blocks of the tower: the entries of its outermost lists of modules, projectors apart."""
    outside = (*model.family.projector, *model.family.beside_tower)
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.base.named_modules():
        inside = is_part(name, model.family.vision) and not is_part(name, outside)
        if inside and isinstance(module, nn.ModuleList) and not any(name.startswith(f"{stack}.") for stack in stacks):
            stacks[name] = module
    return [block for stack in stacks.values() for block in stack]


def _block_bytes(block: nn.Module, width: int, size: int, masks: int) -> int:
    """Return what a block keeps of one patch."""
    named = list(block.named_modules())
    plain = [module for name, module in named if isinstance(module, nn.Linear) and "lora_" not in name]
    norms = sum("Norm" in type(module).__name__ for _, module in named)
    outputs = sum(layer.out_features for layer in plain) - norms * width
    inputs = (norms + 1) * width + max(layer.in_features for layer in plain)
    updates = sum(_update_bytes(module, size, masks) for _, module in named if hasattr(module, "lora_A"))
    return 4 * norms * width + size * (outputs + inputs) + updates


def _update_bytes(layer: Any, size: int, masks: int) -> int:
    """Return what a layer's update keeps of one patch beside the layer's input."""
    dropped = isinstance(layer.lora_dropout["default"], nn.Dropout)
    copies = masks + size if dropped else size % 4
    return layer.in_features * copies + layer.r["default"] * size


def _weight_bytes(block: nn.Module, size: int) -> int:
    """Return what DoRA keeps of a block's layers, whatever the number of patches: products as large as weights."""
    total = 0
    for module in block.modules():
        if hasattr(module, "lora_A") and getattr(module, "lora_magnitude_vector", None):
            layer: Any = module
            total += layer.in_features * layer.out_features * (4 + 4 + size)
    return total
