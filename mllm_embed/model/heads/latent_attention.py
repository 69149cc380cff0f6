"""Latent attention before the mean (NV-Embed, arXiv 2405.17428, section 3.1): each token asks a trained dictionary.

The hidden states are the queries, a trained array of latents is both keys and values; what comes out goes through a
perceptron, and pooling takes its mean. A token sees the latents alone and no other token, so that inputs may be
batched, packed and share prefixes as without it. As in the weights that NVIDIA released (known from memory, not
compared), there are several heads, both steps are added to what goes into them and normalised before, and the
perceptron is gated.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import ModelError
from ...files import write_json

LATENT_FOLDER = "latent_attention"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


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
    write_json(folder / LATENT_FOLDER / _CONFIG, asdict(attention.spec))
    tensors = {name: tensor.float().cpu().contiguous() for name, tensor in attention.state_dict().items()}
    save_file(tensors, folder / LATENT_FOLDER / _WEIGHTS)


def read_latent_attention(folder: Path) -> LatentAttention | None:
    """Return the latent attention of a saved folder, frozen; None where it has none. Raises ModelError for a damaged
    one."""
    home = folder / LATENT_FOLDER
    if not home.is_dir():
        return None
    try:
        about: dict[str, Any] = json.loads((home / _CONFIG).read_text(encoding="utf-8"))
        with torch.device("meta"):  # sizes that are wrong take no memory
            attention = LatentAttention(LatentAttentionSpec(**about))
        # copies, since the file is mapped into memory, and may be written anew
        tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in load_file(home / _WEIGHTS).items()}
        attention.load_state_dict(tensors, assign=True)
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, RecursionError, SafetensorError,
    ) as error:  # fmt: skip
        raise ModelError(f"{home} is damaged ({' '.join(str(error).split())}); save the model again") from error
    return attention.eval().requires_grad_(False)


def latent_identity(folder: Path) -> bytes:
    """Return bytes that tell one latent attention from another; none where a folder has none."""
    home = folder / LATENT_FOLDER
    if not home.is_dir():
        return b""
    return b"".join(hashlib.sha256((home / name).read_bytes()).digest() for name in (_CONFIG, _WEIGHTS))
