"""Lexical vectors: one weight for each word of the vocabulary, read by a model's own head off the end of an input.

After SPLADE (arXiv 2107.05720) and LexLIP (ICCV 2023): a word weighs log(1 + relu(logit)), the largest of what several
tokens give it (max pooling). There every token of a bidirectional encoder is asked. Ours are the last few tokens of
those that are pooled: in a causal model they alone have seen the whole input, while a picture's tokens, which the
instruction follows, would bring the words of what is to be changed into a maximum that nothing takes out again. With
one token it is PromptReps' reading (arXiv 2404.18424). Ours too: vectors have unit length, so that their dot products
are cosines as those of dense vectors are, and what training adds to the head is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError, did_you_mean
from .module_files import read_head, write_head

LEXICAL_FOLDER = "lexical_head"
RANK = 32
"""Of what training adds to a head."""


@dataclass(frozen=True)
class Lexical:
    """How a model's lexical vectors are made, as it is saved in its settings.

    Args:
        words: of a vector at most, the heaviest; the others weigh 0.
        tokens: that are asked, the last of those that are pooled.
        rank: of what training has added to the head; 0 where that is the base's own.

    Raises ConfigError for anything but whole numbers, over 0 but for `rank`.
    """

    words: int = 256
    tokens: int = 4
    rank: int = 0

    def __post_init__(self) -> None:
        for name, least in (("words", 1), ("tokens", 1), ("rank", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"lexical.{name} is a whole number from {least} on, not {value!r:.60}")

    def keeping(self, words: int) -> Lexical:
        """Return the same with so many words a vector at most."""
        return replace(self, words=words)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, as `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Lexical:
        """Return what `to_dict` wrote. Raises ValueError, which names the key, for anything else."""
        known = cls.__dataclass_fields__
        unknown = next((key for key in values if key not in known), None)
        if unknown is not None:
            raise ValueError(f"lexical.{unknown} is no key of it" + did_you_mean(str(unknown), known))
        return cls(**values)


@dataclass(frozen=True)
class LexicalHeadSpec:
    """The sizes of what training adds: `width` of a hidden state, `vocabulary`, `rank`.

    Raises ValueError for a size that is no whole number over 0.
    """

    width: int
    vocabulary: int
    rank: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}, not a whole number over 0")


class LexicalHead(nn.Module):
    """What training adds to a frozen language head W: the logits of a state h are W (h + B A h) + b.

    That is LoRA on the head, whose update W B A lies within W, so that it is saved in 2 x rank x width numbers and one
    a word, however large W is. B and b start at 0: an untrained one changes nothing.
    """

    def __init__(self, spec: LexicalHeadSpec) -> None:
        """Make one, float32."""
        super().__init__()
        self.spec = spec
        self.down = nn.Linear(spec.width, spec.rank, bias=False)
        self.up = nn.Linear(spec.rank, spec.width, bias=False)
        nn.init.zeros_(self.up.weight)
        self.bias = nn.Parameter(torch.zeros(spec.vocabulary))

    def forward(self, states: Tensor, head: nn.Linear) -> Tensor:
        """Return the logits [..., V] float32 of states [..., H]."""
        given = states.to(self.bias.dtype)
        return logits_of(given + self.up(self.down(given)), head) + self.bias


def logits_of(states: Tensor, head: nn.Linear) -> Tensor:
    """Return the logits [..., V] float32 that a head gives states [..., H]."""
    logits: Tensor = head(states.to(head.weight.dtype)).float()
    return logits


def lexical_vectors(
    hidden: Tensor, chosen: Tensor, tokens: int, head: nn.Linear, added: LexicalHead | None = None
) -> Tensor:
    """Return lexical vectors [B, V] float32 of unit length; 0 where no logit is over 0.

    Args:
        hidden: [B, L, H] float, the states after the final norm.
        chosen: [B, L], 1 for the tokens that are pooled.
        tokens: how many of these are asked, from the last on; all of a row that has fewer.
        head: gives the logits of a state.
        added: what training adds to it.
    """
    numbers = torch.arange(1, chosen.shape[1] + 1, device=chosen.device)
    last = (chosen.to(numbers.dtype) * numbers).topk(min(tokens, chosen.shape[1]), 1).values  # 0 for none
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    states = hidden[rows, (last - 1).clamp(min=0)]
    logits = logits_of(states, head) if added is None else added(states, head)
    # the logarithm keeps the order, so that the largest logit is that of the largest weight
    largest = logits.masked_fill(last[..., None] == 0, 0).amax(1) if (last == 0).any() else logits.amax(1)
    return F.normalize(torch.log1p(F.relu(largest)), dim=-1)


def write_lexical_head(folder: Path, head: LexicalHead) -> None:
    """Write FOLDER/lexical_head: sizes and weights."""
    write_head(folder / LEXICAL_FOLDER, head.spec, head)


def read_lexical_head(folder: Path) -> LexicalHead | None:
    """Return the lexical head of a saved folder, frozen; None where it has none. Raises ModelError for a damaged
    one."""
    return read_head(folder / LEXICAL_FOLDER, lambda about: LexicalHead(LexicalHeadSpec(**about)))
