"""A few learned tokens in the place of a picture's many, between projector and language model.

After the adaptive token learner of ISA (arXiv 2403.01431; its abstract and summaries of its method were at hand, not
its equations): a map of 1 x 1 gives each of a picture's tokens a share in each of k groups, a group's token is the mean
of what it holds, the k tokens look at one another and then at the whole picture again, and what comes out lies among
the language model's words. Ours is the start: the shares are those of k regions of the picture, and the two looks add
nothing, so that an untrained learner is average pooling over regions, from which training begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .module_files import read_head, write_head

LEARNER_FOLDER = "token_learner"
_HEADS, _HEAD_WIDTH = 8, 64  # of the two looks, as far as the width goes
_FALL = 4.0  # by which a token's score for a region falls with the square of its distance, in regions, from the middle
Shape = tuple[int, int]


@dataclass(frozen=True)
class TokenLearnerSpec:
    """The sizes of a token learner.

    Args:
        width: of one of the picture's tokens, and of a word's embedding.
        tokens: how many a picture becomes.

    Raises ValueError for a size that is no whole number over 0.
    """

    width: int
    tokens: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}, not a whole number over 0")

    @property
    def grid(self) -> Shape:
        """The rows and columns of the regions at the start, and of the places of what comes out, as square as can be: 9
        are 3 x 3, 12 are 3 x 4, 7 are 1 x 7."""
        rows = next(rows for rows in range(math.isqrt(self.tokens), 0, -1) if self.tokens % rows == 0)
        return rows, self.tokens // rows


class _Look(nn.Module):
    """Cross-attention that is added to what asks, normalised before, and adds nothing at first: [P, Q, H] -> same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, min(_HEADS, width // _HEAD_WIDTH))
        inside = self.heads * min(_HEAD_WIDTH, width)
        self.asking, self.shown = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, inside, bias=False)
        self.key_value = nn.Linear(width, 2 * inside, bias=False)
        self.out = nn.Linear(inside, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Return tokens [P, Q, H] after they looked at `seen` [P, N, H]."""
        asked, (keys, values) = self.query(self.asking(tokens)), self.key_value(self.shown(seen)).chunk(2, dim=-1)
        parts = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (asked, keys, values))
        found = F.scaled_dot_product_attention(*parts)
        return tokens + self.out(found.transpose(1, 2).flatten(2))


class TokenLearner(nn.Module):
    """k tokens of a picture's N, whatever N is: [P, N, H] -> [P, k, H]."""

    def __init__(self, spec: TokenLearnerSpec) -> None:
        """Make one that pools over regions, float32."""
        super().__init__()
        self.spec = spec
        self.norm = nn.LayerNorm(spec.width)
        self.maps = nn.Linear(spec.width, spec.tokens, bias=False)
        nn.init.zeros_(self.maps.weight)
        self.themselves, self.picture = _Look(spec.width), _Look(spec.width)

    def forward(self, features: Tensor, shape: Shape) -> Tensor:
        """Return the learned tokens [P, k, H] of pictures' tokens [P, N, H] of one `shape`, in the type of `features`.

        `shape` are the rows and columns in which the N tokens lie, one row after the other.
        """
        given = features.to(self.maps.weight.dtype)
        scores = self.maps(self.norm(given)) + _regions(shape, self.spec.grid, given)
        # each token's shares among the groups, over their sum in each group: by logarithms, since a sum may be near 0
        weights = scores.log_softmax(-1).softmax(1)
        tokens = (weights.transpose(1, 2) @ given).to(given.dtype)
        tokens = self.picture(self.themselves(tokens, tokens), given)
        return tokens.to(features.dtype)

    def of_pictures(self, pictures: Sequence[Tensor], shapes: Sequence[Shape]) -> Tensor:
        """Return the learned tokens [P, k, H] of P pictures [N, H] each, those of one shape computed together."""
        by_shape: dict[Shape, list[int]] = {}
        for number, shape in enumerate(shapes):
            by_shape.setdefault(shape, []).append(number)

        def alike(group: list[int]) -> Tensor:
            return torch.stack([pictures[at] for at in group])

        learned = [self(alike(group), shape) for shape, group in by_shape.items()]
        order = torch.tensor(list(chain.from_iterable(by_shape.values())), device=learned[0].device)
        return torch.cat(learned)[order.argsort()]


def _regions(shape: Shape, grid: Shape, like: Tensor) -> Tensor:
    """Return how near the tokens of a picture lie to the regions of a grid: [N, k], 0 in the middle of one.

    Of tokens in one row or column the regions are pieces of that.
    """
    if 1 in shape:
        shape, grid = (1, math.prod(shape)), (1, math.prod(grid))
    far: list[Tensor] = []
    for tokens, regions in zip(shape, grid, strict=True):
        places = (torch.arange(tokens, device=like.device, dtype=like.dtype) + 0.5) * (regions / tokens)
        middles = torch.arange(regions, device=like.device, dtype=like.dtype) + 0.5
        far.append((places[:, None] - middles).square())
    down, across = far
    return -_FALL * (down[:, None, :, None] + across[None, :, None, :]).flatten(2).flatten(0, 1)


def write_token_learner(folder: Path, learner: TokenLearner) -> None:
    """Write FOLDER/token_learner: sizes and weights."""
    write_head(folder / LEARNER_FOLDER, learner.spec, learner)


def read_token_learner(folder: Path) -> TokenLearner | None:
    """Return the token learner of a saved folder, frozen; None where it has none. Raises ModelError for a damaged
    one."""
    return read_head(folder / LEARNER_FOLDER, lambda about: TokenLearner(TokenLearnerSpec(**about)))
