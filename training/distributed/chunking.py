"""The number of tokens that may be alive at once, from a measurement of what a few of them take."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from mllm_embed.errors import ModelError

from ..batch.collator import Chunk
from ..recipe.optimizers import state_bytes
from .gradient_caching import BatchEncoder
from .memory_tracker import MemoryTracker

# Bytes kept free of the memory given: a CUDA context with its libraries, and what fragmentation wastes; on a CPU the
# interpreter with torch and transformers. Assumed for the GPU (none was at hand), measured for the CPU.
RESERVE = {"cuda": 1 << 30, "cpu": 700 << 20}
# Of the memory that weights leave, what a step may take at its worst moment. The rest is for the loss, for what
# the libraries and the allocator take, and on a CPU for everything else that runs there.
SHARE = {"cuda": 0.6, "cpu": 0.25}


def find_chunk_tokens(encoder: BatchEncoder, one: Chunk, two: Chunk, bf16: bool, optimizer: str = "adamw") -> int:
    """Return the largest power of two of tokens that a step's activations may belong to.

    One long input and two of it go forward and backward, and the difference of what they take is what a token takes;
    where two do not fit, all that one takes counts as its tokens'. The memory is what there is, not what is free, but
    whether two fit depends on that too: a run keeps what it found.

    Raise ModelError where not even one input fits.

    Args:
        encoder: what is trained.
        one: a chunk of one long input.
        two: a chunk of that input twice.
        bf16: whether training computes under bfloat16 autocast.
        optimizer: its name in the recipe.
    """
    device = next(encoder.parameters()).device
    tokens = one["input_ids"].numel()
    alone = _peak(encoder, one, bf16)
    if alone is None:
        room = total_memory(device) / (1 << 30)
        raise ModelError(
            f"an input of {tokens:,} tokens does not fit in {room:.1f} GiB beside the model; "
            "take smaller pictures, or another output with gradient_checkpointing: true or quantization: nf4"
        )
    both = _peak(encoder, two, bf16)
    each = max((alone if both is None else both - alone) / tokens, 1)
    # what is trained has a gradient beside it, and what the optimiser keeps
    weights = sum(parameter.nbytes * (2 if parameter.requires_grad else 1) for parameter in encoder.parameters())
    weights += state_bytes(optimizer, (parameter.shape for parameter in encoder.trainable().values()))
    return power_of_two(total_memory(device) - weights, each, device.type)


def power_of_two(room: float, bytes_a_token: float, device: str) -> int:
    """Return the largest power of two of tokens that fit SHARE of the room (bytes), less RESERVE; at least 1."""
    return 1 << max(int((room - RESERVE[device]) * SHARE[device] / bytes_a_token), 1).bit_length() - 1


def total_memory(device: torch.device) -> int:
    """Return the bytes of a GPU, or each process's share of the RAM."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _peak(encoder: BatchEncoder, chunk: Chunk, bf16: bool) -> int | None:
    """Return the bytes at the worst moment of a step, above those before it; None where a GPU has not so many."""
    device, training = next(encoder.parameters()).device, encoder.training
    encoder.train()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            vectors = encoder.encode(chunk)
        vectors.sum().backward()

    # the measurement leaves no trace in the training: not in the random state, the gradients, or the model's mode
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            return _gpu_peak(step, device) if device.type == "cuda" else _counted_peak(step)
        except torch.OutOfMemoryError:
            return None
        finally:
            encoder.zero_grad(set_to_none=True)
            encoder.train(training)


def _counted_peak(step: Callable[[], None]) -> int:
    with MemoryTracker() as memory:
        step()
    return memory.peak


def _gpu_peak(step: Callable[[], None], device: torch.device) -> int:
    step()  # libraries take their workspaces with their first call
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before
