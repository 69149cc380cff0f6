"""The divergence from a re-ranker over lists, against the sum of its parts."""

from __future__ import annotations

import math

import pytest
import torch

from mllm_embed.training.loss.judged import judged, lists_of

NONE = float("nan")


def test_lists_hold_what_each_row_brought() -> None:
    lists = lists_of(torch.tensor([5, 6, 5]), torch.tensor([1, 2, 9]), torch.tensor([0, 0, 2]))
    assert lists.tolist() == [[5, 1, 2], [6, -1, -1], [5, 9, -1]]
    empty = torch.zeros(0, dtype=torch.long)
    assert lists_of(torch.tensor([3, 4]), empty, empty).tolist() == [[3], [4]]


def test_the_loss_is_the_divergence_of_each_list() -> None:
    torch.manual_seed(0)
    queries, candidates = (torch.nn.functional.normalize(torch.randn(n, 6, dtype=torch.float64)) for n in (4, 9))
    queries.requires_grad_(True), candidates.requires_grad_(True)
    lists = torch.tensor([[0, 1, 2], [3, 4, -1], [5, -1, -1], [6, 7, 8]])  # the third has no list
    scores = torch.tensor([[2.0, -1.0, 0.5], [1.0, 1.5, NONE], [4.0, NONE, NONE], [3.0, NONE, 2.0]])
    t, judge = 0.2, 1.5
    total = 0.0
    for query, row, told in zip(queries, lists.tolist(), scores.tolist(), strict=True):
        pairs = [(query @ candidates[at], score) for at, score in zip(row, told, strict=True) if not math.isnan(score)]
        if len(pairs) > 1:
            taught = torch.tensor([score for _, score in pairs], dtype=torch.float64).div(judge).softmax(0)
            own = torch.stack([cosine for cosine, _ in pairs]).div(t).softmax(0)
            total = total + sum(p * (p / q).log() for p, q in zip(taught, own, strict=True))
    expected = total / len(queries)
    found = judged(queries, candidates, lists, scores, t, judge)
    torch.testing.assert_close(found.loss, expected)
    wanted = torch.autograd.grad(expected, (queries, candidates))
    for gradient, own in zip(wanted, torch.autograd.grad(found.loss, (queries, candidates)), strict=True):
        torch.testing.assert_close(own, gradient)
    cosines = queries.detach() @ candidates.detach().T
    hardest = [cosines[0, 1:3].max(), cosines[1, 4], cosines[3, 7:9].max()]
    assert float(found.hardest) == pytest.approx(float(sum(hardest) / 3))
    assert (float(found.negatives), float(found.positive)) == (
        1.25, pytest.approx(float(cosines[range(4), [0, 3, 5, 6]].mean())),
    )  # fmt: skip


def test_a_batch_without_lists_teaches_nothing() -> None:
    queries = torch.nn.functional.normalize(torch.randn(2, 4)).requires_grad_(True)
    loss = judged(queries, queries.detach(), torch.tensor([[0], [1]]), torch.full((2, 1), NONE), 0.1, 1.0).loss
    loss.backward()
    assert float(loss.detach()) == 0 and not queries.grad.any()
