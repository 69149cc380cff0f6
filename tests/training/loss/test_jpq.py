"""JPQ's loss against a loop over all codes."""

from __future__ import annotations

import math

import pytest
import torch

from mllm_embed.training.loss.jpq import Codes, jpq
from mllm_embed.training.loss.right_answers import right_answers

ROWS, PIECES, WIDTH = 12, 2, 6
TEMPERATURE = 0.2
ASKS = torch.tensor([100, 101, 100, 3])  # the last query is the candidate 3 itself
POSITIVE = torch.tensor([4, 0, 7, 9])
RIGHT = torch.tensor([100, 100, 101, 3]), torch.tensor([4, 7, 0, 9])


def slow(queries, codes, rotation, centroids, count):
    """Return the loss, the negatives of each query, and how many positives come first, all by loops."""
    rows = [torch.cat([centroids[s, int(code[s])] for s in range(PIECES)]) for code in codes]
    total, found, hits = 0.0, [], 0
    for i in range(len(queries)):
        turned = rotation @ queries[i]
        scores = [turned @ row for row in rows]
        right = {int(b) for a, b in zip(*RIGHT, strict=True) if a == ASKS[i]} | {int(ASKS[i])}
        own = int(POSITIVE[i])
        ranked = sorted(
            (j for j in range(ROWS) if j == own or j not in right), key=lambda j: (-float(scores[j].detach()), j)
        )
        first = ranked[:count]
        place = first.index(own) + 1 if own in first else count + 1
        wrong = [(r, j) for r, j in enumerate(first, 1) if j != own]
        terms = [
            torch.log(1 + torch.exp((scores[j] - scores[own]) / TEMPERATURE)) * abs(1 / r - 1 / place) for r, j in wrong
        ]
        total = total + sum(terms) / len(terms)
        found.append([j for _, j in wrong])
        hits += place == 1
    return total / len(queries), found, hits


@pytest.mark.parametrize("count", [3, 8, 50])
def test_the_loss_is_its_formula(count: int) -> None:
    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(4, WIDTH), dim=-1).requires_grad_()
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
    centroids = torch.randn(PIECES, 256, WIDTH // PIECES).requires_grad_()
    codes = torch.randint(0, 4, (ROWS, PIECES))  # of which some are equal, and tie
    ignored = right_answers(ASKS, *RIGHT, torch.arange(ROWS))
    wanted, found, hits = slow(queries, codes, rotation, centroids, min(count, ROWS))
    gradients = torch.autograd.grad(wanted, (queries, centroids))
    output = jpq(queries, Codes(codes, rotation), centroids, POSITIVE, ignored, TEMPERATURE, count)
    assert float(output.loss) == pytest.approx(float(wanted), rel=1e-5)
    assert float(output.accuracy) == hits / 4
    assert float(output.negatives) == pytest.approx(sum(map(len, found)) / 4)
    assert 4 not in found[2] and 7 not in found[0] and 3 not in found[3]  # each is right for the query, or itself
    for own, other in zip(torch.autograd.grad(output.loss, (queries, centroids)), gradients, strict=True):
        assert torch.allclose(own, other, atol=1e-5) and float(own.abs().max()) > 1e-3


def test_a_positive_far_above_all_costs_nothing() -> None:
    centroids = torch.zeros(1, 256, 2)
    centroids[0, 0] = torch.tensor([50.0, 0.0])
    codes, ignored = torch.tensor([[0], [1], [2]]), right_answers(*(torch.tensor([at]) for at in (9, 9, 0)), ASKS[:3])
    queries = torch.tensor([[1.0, 0.0]])
    output = jpq(queries, Codes(codes, torch.eye(2)), centroids, torch.tensor([0]), ignored, 1.0, 3)
    assert float(output.loss) == pytest.approx(0, abs=1e-15) and math.isclose(float(output.positive), 50)
