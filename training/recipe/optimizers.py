"""The optimisers that a recipe may name: transformers' names, what they keep of each parameter, what they need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from mllm_embed.errors import ConfigError

OptimizerName = Literal[
    "adamw", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "adafactor", "lion_32bit", "lion_8bit"
]
_SMALL = 4096  # numbers of a parameter whose moments bitsandbytes keeps in 32 bits whatever is asked (min_8bit_size)
_BLOCK = 256  # 8-bit numbers that share a scale, float32 (arXiv 2110.02861, section 2)


@dataclass(frozen=True)
class Optimizer:
    """The record of an optimiser.

    Args:
        called: its name in transformers.
        words: what it keeps, for a plan.
        moments: numbers that it keeps of each trained number; 0 where `factored`.
        bits: of such a number.
        factored: whether it keeps one number for each row and column of a matrix instead.
        paged: whether the GPU's driver may move its moments to the RAM.
        of_bitsandbytes: whether it is of that package.
        here: of a paged one, the optimiser that computes the same without paging.
    """

    called: str
    words: str
    moments: int
    bits: int = 32
    factored: bool = False
    paged: bool = False
    of_bitsandbytes: bool = False
    here: str = ""

    def state_bytes(self, shape: Sequence[int]) -> int:
        """Return the bytes that it keeps of a trained parameter of this shape."""
        count = math.prod(shape)
        if self.factored:
            rows = math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1] if len(shape) > 1 else count
            return 4 * rows
        if self.bits == 8 and count >= _SMALL:
            return self.moments * (count + 4 * math.ceil(count / _BLOCK))
        return 4 * self.moments * count


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer("adamw_torch_fused", "AdamW's two moments", 2),
    "adamw_8bit": Optimizer("adamw_8bit", "AdamW's two moments in 8 bits", 2, 8, of_bitsandbytes=True),
    "paged_adamw_32bit": Optimizer(
        "paged_adamw_32bit", "AdamW's two moments, which may move to the RAM", 2, paged=True, of_bitsandbytes=True,
        here="adamw",
    ),
    "paged_adamw_8bit": Optimizer(
        "paged_adamw_8bit", "AdamW's two moments in 8 bits, which may move to the RAM", 2, 8, paged=True,
        of_bitsandbytes=True, here="adamw_8bit",
    ),
    "adafactor": Optimizer("adafactor", "Adafactor's sums of rows and columns", 0, factored=True),
    "lion_32bit": Optimizer("lion_32bit", "Lion's moment", 1, of_bitsandbytes=True),
    "lion_8bit": Optimizer("lion_8bit", "Lion's moment in 8 bits", 1, 8, of_bitsandbytes=True),
}  # fmt: skip


def state_bytes(name: str, shapes: Iterable[Sequence[int]]) -> int:
    """Return the bytes that an optimiser keeps of trained parameters of these shapes."""
    return sum(OPTIMIZERS[name].state_bytes(shape) for shape in shapes)


def check_optimizer(stage: str, name: str, place: str, deepspeed: str | None) -> None:
    """Raise ConfigError for an optimiser that cannot do what it is for on `place`, "cuda" or "cpu", or in this run."""
    optimizer, where = OPTIMIZERS[name], f"stage '{stage}': optimizer {name}"
    if deepspeed and name != "adamw":
        raise ConfigError(f"{where}: DeepSpeed's pieces of moments are AdamW's alone here; take adamw, or no deepspeed")
    if optimizer.paged and place == "cpu":
        raise ConfigError(f"{where} moves moments between GPU and RAM, and there is no GPU; take {optimizer.here}")
    if optimizer.of_bitsandbytes and find_spec("bitsandbytes") is None:
        raise ConfigError(f"{where} needs bitsandbytes; pip install 'mllm_embed[quantized]'")
