"""Throw-away heads of the toy's pretraining, which tell the parts of a model what to learn beside words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..scenes import BACKGROUNDS, CELLS, SIZES, Scene

CELL_OF_TOKEN = torch.arange(9).view(3, 3).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()  # 36 patches


class SeeingHead(nn.Module):
    """A reader of the picture's tokens: the thing and size in each cell, the background, and each token's own cell.

    As the other heads it sees tokens at one length, as the language model's RMSNorm does.
    """

    def __init__(self, width: int, nouns: list[str]):
        super().__init__()
        self.classes = {(noun, size): 1 + i for i, (noun, size) in enumerate((n, s) for n in nouns for s in SIZES)}
        self.things, self.ground = nn.Linear(width, 1 + len(self.classes)), nn.Linear(width, len(BACKGROUNDS))
        self.cell = nn.Linear(width, len(CELLS))

    def forward(self, tokens: Tensor, scenes: list[Scene]) -> tuple[Tensor, float]:
        """tokens [B, 36, W] -> loss, share of the things that are named rightly."""
        wanted = torch.zeros(len(scenes), len(CELLS), dtype=torch.long)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                wanted[row, thing.cell] = self.classes[thing.noun, thing.size]
        tokens = unit_rms(tokens)
        things = self.things(cells_of(tokens))
        cells = self.cell(tokens).flatten(0, 1)
        loss = 3 * F.cross_entropy(things.flatten(0, 1), wanted.flatten())
        loss = loss + F.cross_entropy(self.ground(tokens.mean(1)), background_numbers(scenes))
        loss = loss + F.cross_entropy(cells, CELL_OF_TOKEN.repeat(len(scenes)))
        return loss, (things.argmax(-1) == wanted)[wanted > 0].float().mean().item()


class PointingHead(nn.Module):
    """A reader of what a noun of a question brought back from the picture: the cell and the size of its thing."""

    def __init__(self, width: int):
        super().__init__()
        self.read = nn.Linear(width, len(CELLS) * len(SIZES))

    def forward(self, hidden: Tensor, attention: Tensor, mentioned: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [B, L, W] after the layer whose head has `attention` [B, L, 36] over the picture's tokens.

        mentioned [M, 4] is what `mentions` gives. Returns two losses: where the head looks, and what was read.
        """
        rows, positions, cells, sizes = mentioned.T
        shares = 4 * cells_of(attention[rows, positions].float()[..., None]).squeeze(2)
        looked = -shares.gather(1, cells[:, None]).clamp_min(1e-6).log()
        read = F.cross_entropy(
            self.read(unit_rms(hidden[rows, positions])), cells * len(SIZES) + sizes, reduction="sum"
        )
        count = max(len(mentioned), 1)  # a small batch may name nothing
        return looked.sum() / count, read / count


class AimingHead(nn.Module):
    """A reader of the last token of a question about a change: the cell of the thing that is meant."""

    def __init__(self, width: int):
        super().__init__()
        self.cell = nn.Linear(width, len(CELLS))

    def forward(self, hidden: Tensor, aimed: Tensor) -> tuple[Tensor, float]:
        """hidden [B, L, W]; aimed [K, 3]: row, position and cell -> loss, share of the cells that are read rightly."""
        rows, positions, cells = aimed.T
        scores = self.cell(unit_rms(hidden[rows, positions]))
        loss = F.cross_entropy(scores, cells, reduction="sum") / max(len(aimed), 1)  # a small batch may change nothing
        return loss, (scores.argmax(-1) == cells).float().sum().item() / max(len(aimed), 1)


def unit_rms(vectors: Tensor) -> Tensor:
    """Return the vectors [..., W] in float32 with a mean square of 1."""
    return F.rms_norm(vectors.float(), vectors.shape[-1:])


def cells_of(patches: Tensor) -> Tensor:
    """Return the mean of the four patches of every cell: [B, 36, W] -> [B, 9, W]."""
    return F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (6, 6)), 2).flatten(2).transpose(1, 2)


def background_numbers(scenes: list[Scene]) -> Tensor:
    """Return each scene's background as its place in BACKGROUNDS: [B] int64."""
    names = list(BACKGROUNDS)
    return torch.tensor([names.index(scene.background) for scene in scenes], dtype=torch.long)


def noun_scores(vectors: Tensor, nouns: dict[str, Tensor]) -> Tensor:
    """Return the cosines of vectors [N, W] and all nouns' embeddings [W], by a temperature of 0.07: [N, nouns]."""
    embeddings = F.normalize(torch.stack(list(nouns.values())).float(), dim=1)
    return F.normalize(vectors.float(), dim=1) @ embeddings.T / 0.07


def binding_loss(tokens: Tensor, scenes: list[Scene], nouns: dict[str, Tensor]) -> Tensor:
    """Return InfoNCE over all nouns of the picture's tokens [B, 36, W] with the embedding [W] of the noun shown."""
    number = {noun: at for at, noun in enumerate(nouns)}
    shown = [(row, thing.cell, number[thing.noun]) for row, scene in enumerate(scenes) for thing in scene.things]
    rows, cells, wanted = torch.tensor(shown).T
    return F.cross_entropy(noun_scores(cells_of(tokens.float())[rows, cells], nouns), wanted)
