"""Learning the maps of recurrent binary codes from stored vectors alone (BEBR, arXiv 2302.08714).

As in the paper and its code (ganyk/BEBR, vfp/loss.py and vfp/models/binary_head.py), vectors are frozen, codes learn
by contrast, and signs pass gradients on where their number lies within 1. Where an older coder's codes of the same rows
are given, the new codes are contrasted with those as well (backward compatible training): the new coder's queries then
find rows that the old one has coded.

The paper has pairs that belong together. Here there are none, and what is near in full vectors tells the codes what
should be near: the softmax over a row's cosines to other rows is the target of that over the cosines of their codes, so
that the nearest rows are the positives, each by its share. Where the paper takes the five hardest negatives, here all
rows of the batch and of a queue weigh as that softmax has them, coded by a copy of the maps that follows slowly
(momentum contrast). Else ours: neighbours come into a batch together, since of a random one hardly two would be near.
W begins as the axes along which rows differ most, turned at random (where iterative quantisation, Gong and Lazebnik
2011, begins), B as the way back along them, R as W again, and the perceptrons beside them at nothing, so that codes are
those of a grid before the first step. They stay so where training finds less of the neighbours of rows held out. Beside
older codes the maps begin as what tells their signs, and then the vectors, best.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import DataError
from .codes import cosines, points, signs
from .form import Form
from .head import Head, Map

_STEPS, _RATE = 400, 1e-4
_ANCHORS, _NEIGHBOURS = 16, 16
_TEMPERATURE, _FOLLOW, _QUEUE = 0.2, 0.99, 1024
_SAMPLE, _HELD_OUT, _NEAREST = 32_768, 512, 10
_RIDGE = 1e-6
_SMALL = float(np.finfo(np.float32).tiny)


def learn(sample: np.ndarray, form: Form, seed: int = 0, old: np.ndarray | None = None) -> Head:
    """Learn the maps that code vectors.

    Args:
        sample: [S, D] float32 of unit length, at least one; at most 32,768 of them are used. Of fewer than 170 nothing
            is learned: the maps are those that training would begin with.
        form: what the codes are to be.
        seed: of the sample, the beginning and the batches.
        old: [S, levels, bits / 8] uint8, older codes of the same rows, with which the new ones are to be comparable.

    Raises DataError for older codes of another shape or type.
    """
    wanted = (len(sample), form.levels, form.bits // 8)
    if old is not None and (old.shape != wanted or old.dtype != np.uint8):
        raise DataError(f"the older codes are {old.dtype} of {old.shape}, and these rows' would be uint8 of {wanted}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sample))[: _SAMPLE + _HELD_OUT]
    held_out = min(_HELD_OUT, len(order) // 10)
    queries, known = sample[order[:held_out]], order[held_out:]
    rows = sample[known]
    began = _Coder(rows, form, rng, None if old is None else signs(old[known]))
    if held_out <= _NEIGHBOURS:
        return began.plain()
    target = None if old is None else F.normalize(torch.from_numpy(points(old[known])), dim=1)
    learned = _trained(copy.deepcopy(began), torch.from_numpy(rows), target, rng).plain()
    if old is not None:  # which the beginning knows nothing of
        return learned
    return max((learned, began.plain()), key=lambda head: _recall(queries, rows, head))


def contrast(mine: Tensor, theirs: Tensor, wanted: Tensor) -> Tensor:
    """Return the contrastive loss, a number, of codes against others.

    Args:
        mine: [B, bits] of unit length.
        theirs: [K, bits] of unit length.
        wanted: [B, K] cosines of the full vectors of both; -inf where a row meets itself.
    """
    alike = (mine @ theirs.T / _TEMPERATURE).masked_fill(wanted == -torch.inf, -torch.inf)
    # where both are -inf, 0 x -inf is no number
    chances = F.log_softmax(alike, dim=1).masked_fill(wanted == -torch.inf, 0)
    return -(F.softmax(wanted / _TEMPERATURE, dim=1) * chances).sum(dim=1).mean()


def _trained(coder: _Coder, rows: Tensor, old: Tensor | None, rng: np.random.Generator) -> _Coder:
    """Train the maps on rows [S, D], and against older codes of them [S, bits] of unit length, and return them."""
    import faiss

    near = faiss.knn(rows.numpy(), rows.numpy(), _NEIGHBOURS, metric=faiss.METRIC_INNER_PRODUCT)[1]
    follower = copy.deepcopy(coder).requires_grad_(False)
    optimizer = torch.optim.Adam(coder.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    queue, queued = torch.empty(0, dtype=torch.long), torch.empty(0, coder.bits)
    for _ in range(_STEPS):
        anchors = rng.choice(len(rows), min(_ANCHORS, len(rows)), replace=False)
        batch = torch.from_numpy(np.unique(near[anchors]))
        earlier = ~torch.isin(queue, batch)
        queue, queued = torch.cat([batch, queue[earlier]])[:_QUEUE], queued[earlier]
        mine, full = coder(rows[batch]), rows[batch] @ rows[queue].T
        others = full.masked_fill(queue == batch[:, None], -torch.inf)
        loss = contrast(mine, torch.cat([mine, queued])[:_QUEUE], others)
        if old is not None:  # of which a row's own is the nearest
            loss = loss + contrast(mine, old[queue], full)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for slow, fast in zip(follower.parameters(), coder.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - _FOLLOW)
        queued = torch.cat([follower(rows[batch]), queued])[:_QUEUE]
    return coder


def _recall(queries: np.ndarray, rows: np.ndarray, head: Head) -> float:
    """Return the share of the nearest rows [S, D] of queries [Q, D] that are nearest by their codes."""
    import faiss

    right = faiss.knn(queries, rows, _NEAREST, metric=faiss.METRIC_INNER_PRODUCT)[1]
    alike = cosines(head.codes(queries), head.codes(rows))
    near = np.argsort(-alike, axis=1, kind="stable")[:, :_NEAREST]
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(right, near, strict=True)]))


def _sign(raw: Tensor) -> Tensor:
    """Return signs, 1 or -1, whose gradient is that of the number where it lies within 1, and 0 beyond."""
    soft = raw.clamp(-1, 1)
    return soft + (torch.where(raw > 0, 1.0, -1.0) - soft).detach()


class _Layer(nn.Module):
    """A `Map` in training."""

    def __init__(self, straight: Tensor, hidden: int, scale: float, rng: np.random.Generator):
        """Begin with the straight way [I, O]; `scale` brings the numbers of its inputs to about 1."""
        super().__init__()
        inputs, outputs = straight.shape
        drawn = torch.from_numpy(rng.standard_normal((inputs, hidden)).astype(np.float32))
        self.straight = nn.Parameter(straight.clone())
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.into = nn.Parameter(drawn * (2 / inputs) ** 0.5 * scale)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Parameter(torch.zeros(hidden, outputs))

    def forward(self, rows: Tensor) -> Tensor:
        """As `Map.__call__`."""
        return rows @ self.straight + self.shift + F.relu(rows @ self.into + self.bias) @ self.out

    def plain(self) -> Map:
        """Return its numbers."""
        return Map(**{name: part.detach().numpy().copy() for name, part in self.named_parameters()})


class _Coder(nn.Module):
    """A `Head` in training."""

    def __init__(self, sample: np.ndarray, form: Form, rng: np.random.Generator, old: np.ndarray | None = None):
        """Begin with straight maps: for rows [S, D], and such as tell older codes' signs [S, levels, bits] best."""
        super().__init__()
        self.bits = form.bits
        hidden = form.hidden(sample.shape[1])
        rows, axes = torch.from_numpy(sample), torch.from_numpy(_axes(sample, form.bits, rng))
        told = None if old is None else torch.from_numpy(old)

        def straight(left: Tensor, level: int) -> Tensor:
            way = axes if told is None else _best_way(left, told[:, level])
            return way / _spread(left @ way)

        self.first = _Layer(straight(rows, 0), hidden, 1 / _spread(rows), rng)
        self.back, self.rest = nn.ModuleList(), nn.ModuleList()
        with torch.no_grad():
            found = _sign(self.first(rows))
            for level in range(1, form.levels):
                way = axes.T.clone() if told is None else _best_way(found, rows)
                left = rows - F.normalize(found @ way, dim=1)
                self.back.append(_Layer(way, hidden, 1.0, rng))
                self.rest.append(_Layer(straight(left, level), hidden, 1 / _spread(left), rng))
                found = found + 0.5**level * _sign(self.rest[-1](left))

    def forward(self, rows: Tensor) -> Tensor:
        """Return what the codes of rows [n, D] stand for, of unit length: [n, bits]."""
        found = _sign(self.first(rows))
        for level, (back, rest) in enumerate(zip(self.back, self.rest, strict=True), 1):
            found = found + 0.5**level * _sign(rest(rows - F.normalize(back(found), dim=1)))
        return F.normalize(found, dim=1)

    def plain(self) -> Head:
        """Return the numbers of all maps."""
        return Head(self.first.plain(), _plain(self.back), _plain(self.rest))


def _best_way(given: Tensor, wanted: Tensor) -> Tensor:
    """Return the matrix [I, O] whose product with what is given [S, I] is nearest to what is wanted [S, O]."""
    given, wanted = given.double(), wanted.double()
    products = given.T @ given
    # rows may have no say in some direction: a little is added for each
    products += torch.eye(len(products)) * max(float(products.trace()) * _RIDGE / len(products), _SMALL)
    return torch.linalg.solve(products, given.T @ wanted).float()


def _plain(layers: Iterable[nn.Module]) -> tuple[Map, ...]:
    return tuple(layer.plain() for layer in layers if isinstance(layer, _Layer))


def _spread(numbers: Tensor) -> float:
    """Return the root of the mean square of numbers, above 0."""
    return max(float(numbers.square().mean().sqrt()), _SMALL)


def _axes(sample: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """Return axes [D, bits] float32 along which rows [S, D] differ most, turned at random; beyond D random ones."""
    size = sample.shape[1]
    turn = np.linalg.qr(rng.standard_normal((max(bits, size),) * 2))[0]
    if bits >= size:
        return turn[:size, :bits].astype(np.float32)
    middle = sample.astype(np.float64) - sample.mean(axis=0)
    axes = np.linalg.eigh(middle.T @ middle)[1][:, ::-1][:, :bits]
    return (axes @ np.linalg.qr(turn[:bits, :bits])[0]).astype(np.float32)
