"""The memory of a training step, counted: the step runs on fake tensors, which have shapes and no data.

What lies in memory at the worst moment of a step is

    base + trained x (4 weights + 4 gradients) + moments + pictures + max(vision tower, language model + projector)

- `base`: the frozen weights as stored (bfloat16, nf4, int8). `trained`: LoRA and the projector, float32, with a
  gradient. `moments`: what the optimiser keeps of each, of AdamW two numbers (recipe/optimizers.py).
- language model: not a formula. Its real modules run forward and backward under torch's FakeTensorMode, one micro-batch
  after the other as BatchEncoder runs them, with the autocast, attention, LoRA, dropout and gradient checkpointing of
  training, while a dispatch mode adds up every storage that is alive. So the count holds what no closed formula has:
  float32 copies in norms and before LoRA, autocast's copies of weights, the layer that checkpointing computes again.
- vision tower: where it is frozen, only what is alive within its forward counts; what one that is trained keeps beside
  that, until its backward pass, is in tower.py. Its code reads the pictures' grids as
  data, which fake tensors do not have, so this is a formula, with b bytes a number, h the tower's width, w its widest
  layer. A pre-norm block (arXiv 2010.11929, eq. 2-3) at its MLP holds, for each patch, the residual stream (b h), the
  norm's output, float32 under autocast (4 h), and the widest layer's output before, in and after its activation
  (3 b w). A tower with rotary positions holds in its attention, instead of the latter, queries, keys and values (3 b h)
  and about seven float32 copies of queries or keys (28 h). Eager attention adds each head's scores. A model that may
  take its features from an earlier layer keeps all of them: b h for every layer. Against MemoryTracker on real towers
  of six of the shapes, two to six layers deep, this is 0.93 to 1.37 of what was alive.
- projector, where it is trained: each token's inputs and outputs of its layers, kept from forward to backward.
- heads behind the language model, a vector a token or lexical vectors: what heads.py counts.
- `pictures`: the pixels of the whole step, float32, with one copy in the base's dtype for the micro-batch under way. On
  a GPU only those under way: the others wait in the RAM.

A step of more tokens than a stage's `chunk_tokens` is computed twice, a chunk at a time (gradient_caching.py): then
only the worst chunk counts.

Not in it: what CUDA and the libraries take (see RESERVE), and the fragmentation of the allocator.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mllm_embed.model.embedding_model import EmbeddingModel, is_part

from ..distributed.chunking import power_of_two
from ..distributed.memory_tracker import MemoryTracker
from .heads import HEADS, head_bytes, held_bytes
from .inputs import MicroBatch
from .tower import TowerBytes, tower_bytes

FEW = (2, 3)  # layers of a deep model that are run


@dataclass(frozen=True)
class Setting:
    """The settings that a step computes with.

    Args:
        place: "cuda" or "cpu".
        autocast: the dtype of torch's autocast; None without it.
        attention: transformers' name of the implementation.
        checkpointing: whether activations are computed again in the backward pass.
        asked: of how many tokens of an input lexical vectors are read.
    """

    place: str
    autocast: torch.dtype | None
    attention: str
    checkpointing: bool
    asked: int = 0


@dataclass(frozen=True)
class StepPeak:
    """The memory of a step at its worst moments.

    Args:
        pixels, vision, language: bytes of the pictures' pixels, within the vision tower, and within the language model.
        chunk_tokens: the tokens that its activations may belong to at once.
        cached: whether it is computed twice, a chunk at a time.
    """

    pixels: int
    vision: int
    language: int
    chunk_tokens: int
    cached: bool

    @property
    def peak(self) -> int:
        """Bytes at the worst moment, above weights, gradients and the optimiser's moments."""
        return self.pixels + max(self.vision, self.language)


def step_peak(
    model: EmbeddingModel, inputs: Sequence[MicroBatch], setting: Setting, chunk_tokens: int | None, room: int
) -> StepPeak:
    """Return what a step takes whose micro-batches are `inputs`, cut into chunks where it needs that.

    Without `chunk_tokens` they are as many as chunking.py would find in `room`, the bytes that weights leave.
    """
    whole = _whole(model, inputs, setting, chunk_tokens or 0)
    if chunk_tokens is None:
        # all that is alive shared among the tokens, what does not grow with them too: rather too few than too many
        chunk_tokens = power_of_two(room, max(whole.peak / _tokens(inputs), 1), setting.place)
    if _tokens(inputs) <= chunk_tokens:
        return replace(whole, chunk_tokens=chunk_tokens)
    return _chunked(model, inputs, setting, chunk_tokens)


def _whole(model: EmbeddingModel, inputs: Sequence[MicroBatch], setting: Setting, chunk_tokens: int) -> StepPeak:
    tower = _tower(model, inputs, setting)
    language = language_peak(model, inputs, setting) + projector_bytes(model, inputs, setting) + tower.kept
    language += head_bytes(model, inputs, setting.asked)
    held = inputs if setting.place == "cpu" else [max(inputs, key=lambda batch: batch.count * batch.pixels)]
    vision = tower.kept + max(vision_peak(model, inputs, setting), tower.work)
    return StepPeak(pixel_bytes(model, held), vision, language, chunk_tokens, False)


def _chunked(model: EmbeddingModel, inputs: Sequence[MicroBatch], setting: Setting, chunk_tokens: int) -> StepPeak:
    chunks = [_chunk(batch, chunk_tokens) for batch in inputs]
    fullest = max(chunks, key=lambda batch: (batch.count * batch.length, batch.length))
    language = language_peak(model, [fullest], setting)
    language += head_bytes(model, [fullest], setting.asked) + held_bytes(model, inputs)
    towers = [_tower(model, [chunk], setting) for chunk in chunks]
    pairs = list(zip(chunks, towers, strict=True))
    language += max(projector_bytes(model, [chunk], setting) + tower.kept for chunk, tower in pairs)
    vision = max(tower.kept + max(vision_peak(model, [chunk], setting), tower.work) for chunk, tower in pairs)
    if setting.place == "cuda":
        pixels = max(pixel_bytes(model, [chunk]) for chunk in chunks)
    else:
        pixels = pixel_bytes(model, inputs)
    return StepPeak(pixels, vision, language, chunk_tokens, True)


def _chunk(batch: MicroBatch, tokens: int) -> MicroBatch:
    return replace(batch, count=min(batch.count, max(1, tokens // batch.length)))


def _tower(model: EmbeddingModel, batches: Sequence[MicroBatch], setting: Setting) -> TowerBytes:
    """Return what a vision tower that is trained takes beside its forward pass; nothing for a frozen one."""
    masks = 1 if setting.place == "cuda" else 4
    return tower_bytes(model, batches, _itemsize(model, setting), setting.checkpointing, masks)


def _tokens(inputs: Sequence[MicroBatch]) -> int:
    return sum(batch.count * batch.length for batch in inputs if not batch.frozen)


def language_peak(model: EmbeddingModel, batches: Sequence[MicroBatch], setting: Setting) -> int:
    """Return the bytes alive at the worst moment of one step in the language model, above weights and gradients.

    Layers are alike, so a deep model is run with two and with three of them, and the rest is counted by the difference.
    `model` is on the meta device. The loss is left out: its scores, [B, M], are small beside one layer.
    """
    _prepare(model, setting)
    layers = model.base.get_decoder().layers
    if len(layers) <= FEW[1]:
        return _peak(model, batches, setting)
    few, more = (_with_layers(model, layers, number, batches, setting) for number in FEW)
    return more + (more - few) * (len(layers) - FEW[1]) // (FEW[1] - FEW[0])


def _with_layers(
    model: EmbeddingModel, layers: nn.ModuleList, number: int, batches: Sequence[MicroBatch], setting: Setting
) -> int:
    decoder = model.base.get_decoder()
    decoder.layers = layers[:number]
    try:
        return _peak(model, batches, setting)
    finally:
        decoder.layers = layers


def _peak(model: EmbeddingModel, batches: Sequence[MicroBatch], setting: Setting) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    decoder = copy.deepcopy(model.base.get_decoder())
    with FakeTensorMode():
        decoder._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        for parameter in decoder.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        with MemoryTracker() as live:
            vectors = [_forward(model, decoder, batch, setting) for batch in batches if not batch.frozen]
            with torch.no_grad():
                vectors += [_forward(model, decoder, batch, setting) for batch in batches if batch.frozen]
            torch.cat(vectors).sum().backward()
    return live.peak


def vision_peak(model: EmbeddingModel, batches: Sequence[MicroBatch], setting: Setting) -> int:
    """Return the bytes alive in the forward of the vision tower for the step's largest micro-batch of pictures."""
    patches = max((batch.count * batch.patches for batch in batches), default=0)
    if not patches:
        return 0
    vision: Any = model.base.config.vision_config
    size, width = _itemsize(model, setting), getattr(vision, model.family.tower_width)
    work = _block_bytes(model, size, width)
    if setting.attention == "eager":
        largest = max(batch.patches for batch in batches)
        together = model.family.pictures.patches_together(vision, largest)
        work += vision.num_attention_heads * together * (3 * size + 4)
    kept = (vision.num_hidden_layers + 1) * size * width if model.family.keeps_layers else 0
    return patches * (size * width + 4 * width + work + kept)


def _block_bytes(model: EmbeddingModel, size: int, width: int) -> int:
    """Return what a block of the vision tower holds of a patch at its widest, in its MLP or in its attention."""
    family = model.family
    linear, rotary = [], False
    for name, module in model.base.named_modules():
        if not is_part(name, family.vision) or is_part(name, family.projector):
            continue
        rotary = rotary or "rotary" in name
        if isinstance(module, nn.Linear) and "lora_" not in name:
            linear.append(module.out_features)
    mlp = 3 * size * max(linear)
    return max(mlp, 3 * size * width + 7 * 4 * width) if rotary else mlp


def projector_bytes(model: EmbeddingModel, batches: Sequence[MicroBatch], setting: Setting) -> int:
    """Return what a trained projector keeps for the backward pass: its layers' inputs and outputs, and autocast's
    weights."""
    tokens = sum(batch.count * batch.features for batch in batches if not batch.frozen)
    if not tokens:
        return 0
    size = _itemsize(model, setting)
    weights = [parameter for parameter in _trained_projector(model) if parameter.dim() == 2]
    copies = size * sum(weight.numel() for weight in weights) if setting.autocast else 0
    return copies + size * tokens * sum(sum(weight.shape) for weight in weights)


def _trained_projector(model: EmbeddingModel) -> list[nn.Parameter]:
    """Return the parameters that are trained beside the adapter, up to the language model."""
    named = ((name, p) for name, p in model.named_parameters() if p.requires_grad and not name.startswith(HEADS))
    return [parameter for name, parameter in named if "lora_" not in name]


def _itemsize(model: EmbeddingModel, setting: Setting) -> int:
    """Return the bytes of a number that linear layers take and give."""
    return 2 if setting.autocast else model.base.dtype.itemsize


def pixel_bytes(model: EmbeddingModel, batches: Sequence[MicroBatch]) -> int:
    """Return the bytes of the step's pixels in float32, and of the largest micro-batch's in the base's dtype."""
    numbers = [batch.count * batch.pixels for batch in batches]
    return 4 * sum(numbers) + model.base.dtype.itemsize * max(numbers, default=0)


def _prepare(model: EmbeddingModel, setting: Setting) -> None:
    # a kernel that is not installed here keeps as much as sdpa does: neither keeps the scores
    model.set_attention("eager" if setting.attention == "eager" else "sdpa")
    if setting.checkpointing:
        model.gradient_checkpointing_enable()
    if setting.place == "cuda":  # dropout keeps its mask as booleans there, in the input's dtype on a CPU
        for module in model.modules():
            if isinstance(module, nn.Dropout) and module.p:
                module.__class__ = _NativeDropout


class _NativeDropout(nn.Dropout):
    """Dropout as a GPU computes it, which plain dropout on fake CPU tensors does not."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.native_dropout(input, self.p, True)[0]


def _forward(model: EmbeddingModel, decoder: nn.Module, batch: MicroBatch, setting: Setting) -> torch.Tensor:
    shape = batch.count, batch.length
    # pictures' features come from tower and projector: where one is trained, gradients flow through what they enter
    trained = bool(batch.patches) and (bool(_trained_projector(model)) or model.trains_vision)
    width = model.base.config.get_text_config().hidden_size
    inputs = torch.empty(*shape, width, dtype=model.base.dtype, requires_grad=trained)
    with torch.autocast("cpu", setting.autocast or torch.bfloat16, enabled=setting.autocast is not None):
        hidden = decoder(inputs_embeds=inputs, attention_mask=torch.empty(shape, dtype=torch.long), use_cache=False)
    return nn.functional.normalize(hidden.last_hidden_state[:, -1].float(), dim=-1)
