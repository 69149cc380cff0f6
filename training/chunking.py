"""How many tokens may be alive at once: found by looking at what a few of them take."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from .collator import Batch
from .gradient_caching import BatchEncoder
from .live_bytes import LiveBytes

# Bytes kept free of the memory given: a CUDA context with its libraries, and what fragmentation wastes; on a CPU the
# interpreter with torch and transformers. Assumed for the GPU (none was at hand), measured for the CPU.
RESERVE = {"cuda": 1 << 30, "cpu": 700 << 20}
# Of the memory that weights leave, what a step may take at its worst moment. The rest is for the loss, for what
# the libraries and the allocator take, and on a CPU for everything else that runs there.
SHARE = {"cuda": 0.6, "cpu": 0.25}


def find_chunk_tokens(encoder: BatchEncoder, few: Batch, more: Batch, bf16: bool) -> int:
    """The largest power of two of tokens that a step's activations may belong to.

    Two small batches go forward and backward, and the difference of what they take is what a token takes. By the
    memory that there is, not by what is free, so that a run that goes on finds the same.

    `bf16`: whether training computes under bfloat16 autocast.
    """
    device = next(encoder.parameters()).device
    tokens, peaks = zip(*((_tokens(batch), _peak(encoder, batch, bf16)) for batch in (few, more)), strict=True)
    each = max((peaks[1] - peaks[0]) / max(tokens[1] - tokens[0], 1), 1)
    # what is trained has a gradient and two moments beside it
    weights = sum(parameter.nbytes * (4 if parameter.requires_grad else 1) for parameter in encoder.parameters())
    return power_of_two(total_memory(device) - weights, each, device.type)


def power_of_two(room: float, bytes_a_token: float, device: str) -> int:
    """The largest power of two of tokens that fit SHARE of the room, less RESERVE; at least 1."""
    return 1 << max(int((room - RESERVE[device]) * SHARE[device] / bytes_a_token), 1).bit_length() - 1


def total_memory(device: torch.device) -> int:
    """Bytes of a GPU, or each process's share of the RAM."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _tokens(batch: Batch) -> int:
    return sum(chunk["input_ids"].numel() for chunk in batch.live)


def _peak(encoder: BatchEncoder, batch: Batch, bf16: bool) -> int:
    """Bytes at the worst moment of a step, above what was there before."""
    device, training = next(encoder.parameters()).device, encoder.training
    encoder.train()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            vectors, temperature = encoder(batch)
        (vectors.sum() * temperature).backward()

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            return _on_gpu(step, device) if device.type == "cuda" else _counted(step)
        finally:
            encoder.zero_grad(set_to_none=True)
            encoder.train(training)


def _counted(step: Callable[[], None]) -> int:
    with LiveBytes() as live:
        step()
    return live.peak


def _on_gpu(step: Callable[[], None], device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before
