"""The places of a picture among an input's tokens: as many as a token learner makes of it, however many there were.

A picture has one run of placeholders, or one for each of its tiles where a family puts marks between these; each run
becomes as long as the learner has tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError

RUNS = "image_runs"
"""The name of [P] int64 in model input: how many placeholders each of its runs had, row by row."""


@dataclass(frozen=True)
class PicturePlaces:
    """The places that pictures have.

    Args:
        placeholder: the number of the token in whose place a picture's tokens come.
        tokens: how many places a run gets.
        pad: the number of the token that pads.
    """

    placeholder: int
    tokens: int
    pad: int

    @classmethod
    def of(cls, config: Any, tokenizer: Any, tokens: int | None) -> PicturePlaces | None:
        """Return the places in inputs of a model of this transformers config; None for None, as its processor has
        them."""
        return None if tokens is None else cls(config.image_token_id, tokens, tokenizer.pad_token_id)

    def set(self, batch: dict[str, Tensor], side: str) -> dict[str, Tensor]:
        """Return padded model input of pictures, [B, L] by token, with runs of another length, and RUNS; padded on
        `side`."""
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        found = [self._places(row, real) for row, real in zip(ids, mask, strict=True)]
        rows = [places for places, _ in found]
        longest = max(map(len, rows))
        changed = dict(batch)
        for name, tensor in batch.items():
            if tensor.shape == ids.shape:
                fill = self.pad if name == "input_ids" else 0
                changed[name] = _laid_out(tensor, rows, longest, fill, side)
        return changed | {RUNS: torch.tensor([length for _, lengths in found for length in lengths])}

    def check(self, names: Sequence[Sequence[str]], ids: Tensor) -> None:
        """Raise DataError for an input, of tokens [B, L], whose pictures, by their names, cannot be told apart."""
        for shown, row in zip(names, (ids == self.placeholder).tolist(), strict=True):
            if sum(run for run, _ in groupby(row)) < len(shown):
                raise DataError(
                    f"{', '.join(shown)} stand next to each other in the prompt, so that a token learner takes them "
                    "for one; give prompts with something between, or one picture an input"
                )

    def _places(self, ids: Tensor, real: Tensor) -> tuple[Tensor, list[int]]:
        """Return which of its tokens [L] a row has, in order, of a run the first so many times; and runs' lengths."""
        kept: list[int] = []
        lengths: list[int] = []
        places = real.nonzero()[:, 0].tolist()
        for shown, run in groupby(places, key=lambda at: int(ids[at]) == self.placeholder):
            members = list(run)
            if shown:
                lengths.append(len(members))
                members = members[:1] * self.tokens
            kept += members
        return torch.tensor(kept), lengths


def _laid_out(tensor: Tensor, rows: list[Tensor], longest: int, fill: int, side: str) -> Tensor:
    out = tensor.new_full((len(rows), longest), fill)
    for number, places in enumerate(rows):
        start = longest - len(places) if side == "left" else 0
        out[number, start : start + len(places)] = tensor[number, places]
    return out
