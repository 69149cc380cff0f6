"""How many tokens may be alive at once: found by looking at what a few of them keep for the backward pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mllm_embed.model import EmbeddingModel

from .collator import Chunk

# Of the memory, what activations may take; the rest is for weights, AdamW, the batch's inputs and what a step makes and
# drops. On a CPU the memory is shared with everything else.
SHARE = {"cuda": 0.5, "cpu": 0.25}


def find_chunk_tokens(model: EmbeddingModel, probe: list[Chunk], bf16: bool) -> int:
    """The largest power of two of tokens whose activations fit SHARE of the memory, weights taken off before.

    `bf16`: whether training computes under bfloat16 autocast.

    A few inputs go through the model, and what their forward pass saves is added up; that is the same number on any
    device. By the memory that there is, not that is free, so that a run that goes on finds the same.
    """
    device = next(model.parameters()).device
    weights = sum(parameter.nbytes * (4 if parameter.requires_grad else 1) for parameter in model.parameters())
    room = (total_memory(device) - weights) * SHARE[device.type]
    return max(1, 1 << int(max(room / _bytes_a_token(model, probe, bf16), 1)).bit_length() - 1)


def total_memory(device: torch.device) -> int:
    """Bytes of a GPU, or each process's share of the RAM."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _bytes_a_token(model: EmbeddingModel, probe: list[Chunk], bf16: bool) -> float:
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that no other takes its address
        return tensor

    device, training = next(model.parameters()).device, model.training
    tokens = sum(chunk["input_ids"].numel() for chunk in probe)
    with (
        torch.random.fork_rng(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(device.type, torch.bfloat16, enabled=bf16),
        _all_kept(model) as layers,
    ):
        for chunk in probe:
            model.train()(**{name: tensor.to(device) for name, tensor in chunk.items()})
    model.train(training)
    kept = sum(size for size, _ in saved.values()) / tokens
    # with checkpointed layers: the states between them, and the one that is computed again
    return kept / layers + layers * 4 * model.width if layers else kept


@contextmanager
def _all_kept(model: EmbeddingModel) -> Iterator[int]:
    """Without layers' checkpointing, whose savings the hooks do not see; gives the number of layers that had it."""
    layers = [m for m in model.base.get_decoder().modules() if getattr(m, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = False
    try:
        yield len(layers)
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True
