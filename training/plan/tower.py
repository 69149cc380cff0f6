"""The memory of a vision tower that is trained: what its blocks keep for the backward pass.

Its code reads the pictures' grids as data, which fake tensors do not have, so this is a formula as in memory.py, with b
bytes a number, h the tower's width. For each patch a block with n norms keeps

- of each norm its input in float32, and its output: n (4 h + b h);
- what attention and the activation take: the outputs of all linear layers but the two that lead back to the residual
  stream, b each; with rotary positions queries and keys once more, 2 b h; and what those two layers take: the
  attention's output and the widest input;
- of each layer with an update A's output, b r; where there is dropout its mask and the dropped input; where autocast
  computes in fewer bits, a copy of the input; by DoRA the outputs of both branches, 2 b a number.

With gradient checkpointing it keeps its input alone, and one block is computed again at a time; Mllama's blocks know no
checkpointing. Whatever the number of patches, DoRA makes three products as large as one layer's weights.

Against MemoryTracker this is 0.85 to 1.24 of what was alive after the forward of thirteen towers of tests/families.py
and of the embedded model; of Mllama's, whose tiny pictures are padded by half, 0.66 to 0.81, of EmbeddingGemma's, with
its many norms, 0.64 to 0.84. With checkpointing on a float32 base it is half of it: the inputs are float32 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mllm_embed.model.embedding_model import EmbeddingModel, is_part

from .inputs import MicroBatch


class TowerBytes(NamedTuple):
    """What a trained tower takes: `kept` until its backward pass, `work` beside that in the block under way."""

    kept: int
    work: int


def tower_bytes(
    model: EmbeddingModel, batches: Sequence[MicroBatch], size: int, checkpointing: bool, masks: int
) -> TowerBytes:
    """Return what a trained tower takes of these micro-batches; nothing for a frozen one.

    Args:
        model: on the meta device, with its adapter.
        batches: those that are alive at once.
        size: bytes of a number that linear layers take and give.
        checkpointing: whether blocks are computed again.
        masks: bytes of an entry of a dropout's mask.
    """
    patches = [batch.count * batch.patches for batch in batches if not batch.frozen]
    if not any(patches) or not model.trains_vision:
        return TowerBytes(0, 0)
    blocks = _blocks(model)
    width = getattr(model.base.config.vision_config, model.family.tower_width)
    turned = 2 * size * width if _has_rotary(model) else 0
    each = [_block_bytes(block, width, size, masks) + turned for block in blocks]
    again = [checkpointing and isinstance(block, GradientCheckpointingLayer) for block in blocks]
    kept = sum(size * width if cheap else whole for whole, cheap in zip(each, again, strict=True))
    work = max(patches) * max(each) if any(again) else 0
    return TowerBytes(sum(patches) * kept, work + _products(blocks))


def _has_rotary(model: EmbeddingModel) -> bool:
    """Return whether the tower turns queries and keys by their places."""
    return any("rotary" in name and is_part(name, model.family.vision) for name, _ in model.base.named_modules())


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
    outputs = sum(layer.out_features for layer in plain) - 2 * width
    inputs = width + max(layer.in_features for layer in plain)
    updates = sum(_update_bytes(layer, size, masks) for layer in _adapted(block))
    return norms * (4 + size) * width + size * (outputs + inputs) + updates


def _adapted(block: nn.Module) -> list[Any]:
    """Return the layers of a block that have an update."""
    return [module for module in block.modules() if hasattr(module, "lora_A")]


def _update_bytes(layer: Any, size: int, masks: int) -> int:
    """Return what a layer's update keeps of one patch beside the layer's input."""
    dropped = isinstance(layer.lora_dropout["default"], nn.Dropout)
    copies = masks + size if dropped else size % 4
    branches = 2 * layer.out_features if layer.use_dora["default"] else 0
    return layer.in_features * copies + (layer.r["default"] + branches) * size


def _products(blocks: Sequence[nn.Module]) -> int:
    """Return what DoRA takes at a time whatever the number of patches, in float32."""
    layers = [layer for block in blocks for layer in _adapted(block) if layer.use_dora["default"]]
    return max((3 * 4 * layer.in_features * layer.out_features for layer in layers), default=0)
