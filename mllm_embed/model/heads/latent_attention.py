"""Latent attention before the mean (NV-Embed, arXiv 2405.17428, section 3.1): each token asks a trained dictionary.

The hidden states are the queries, a trained array of latents is both keys and values; what comes out goes through a
perceptron, and pooling takes its mean. A token sees the latents alone and no other token, so that inputs may be
batched, packed and share prefixes as without it. As in the weights that NVIDIA released (known from memory, not
compared), there are several heads, both steps are added to what goes into them and normalised before, and the
perceptron is gated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .module_files import read_head, write_head

LATENT_FOLDER = "latent_attention"


@dataclass(frozen=True)
class LatentAttentionSpec:
    """The sizes of a latent attention.

    Args:
        width: of a hidden state.
        latents: how many there are.
        heads, head_width: of the attention.
        inner: the width of the perceptron's hidden layer.

    Raises ValueError for a size that is no whole number over 0.
    """

    width: int
    latents: int = 512
    heads: int = 8
    head_width: int = 64
    inner: int = 2048

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}, not a whole number over 0")


class LatentAttention(nn.Module):
    """Cross-attention of hidden states to trained latents, then a gated perceptron: [..., L, H] -> [..., L, H]."""

    def __init__(self, spec: LatentAttentionSpec) -> None:
        """Make one with random weights, float32."""
        super().__init__()
        self.spec = spec
        inside = spec.heads * spec.head_width
        self.latents = nn.Parameter(torch.randn(spec.latents, spec.width))
        self.states_norm, self.latents_norm = nn.LayerNorm(spec.width), nn.LayerNorm(spec.width)
        self.query = nn.Linear(spec.width, inside, bias=False)
        self.key_value = nn.Linear(spec.width, 2 * inside, bias=False)
        self.out = nn.Linear(inside, spec.width, bias=False)
        self.inner_norm = nn.LayerNorm(spec.width)
        self.up, self.down = nn.Linear(spec.width, 2 * spec.inner), nn.Linear(spec.inner, spec.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [B, L, H] in the type of the weights, for hidden states [B, L, H] of any float type."""
        hidden = hidden.to(self.latents.dtype)
        hidden = hidden + self._attended(self.states_norm(hidden))
        value, gate = self.up(self.inner_norm(hidden)).chunk(2, dim=-1)
        return hidden + self.down(value * F.gelu(gate))

    def _attended(self, states: Tensor) -> Tensor:
        heads = self.spec.heads
        keys, values = self.key_value(self.latents_norm(self.latents)).chunk(2, dim=-1)
        queries = self.query(states).unflatten(-1, (heads, -1)).transpose(-2, -3)  # [B, heads, L, width of a head]
        keys, values = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (keys, values))
        shape = (*queries.shape[:-2], *keys.shape[-2:])
        found = F.scaled_dot_product_attention(queries, keys.expand(shape), values.expand(shape))
        return self.out(found.transpose(-2, -3).flatten(-2))


def write_latent_attention(folder: Path, attention: LatentAttention) -> None:
    """Write FOLDER/latent_attention: sizes and weights."""
    write_head(folder / LATENT_FOLDER, attention.spec, attention)


def read_latent_attention(folder: Path) -> LatentAttention | None:
    """Return the latent attention of a saved folder, frozen; None where it has none. Raises ModelError for a damaged
    one."""
    return read_head(folder / LATENT_FOLDER, lambda about: LatentAttention(LatentAttentionSpec(**about)))
