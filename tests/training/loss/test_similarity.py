"""The loss over MaxSim against loops that autograd goes through, in tiles of every size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mllm_embed.training.loss import similarity
from mllm_embed.training.loss.losses import BatchIndices, LossOptions, contrast
from mllm_embed.training.loss.tiled import info_nce


def _ragged(counts: list[int], width: int = 6) -> Tensor:
    vectors = torch.zeros(len(counts), max(counts), width, dtype=torch.float64)
    for row, count in enumerate(counts):
        vectors[row, :count] = F.normalize(torch.randn(count, width, dtype=torch.float64), dim=-1)
    return vectors.requires_grad_(True)


def _slow(queries: Tensor, candidates: Tensor, counts: list[int], others: list[int]) -> Tensor:
    """Scores [Q, C], pair by pair and vector by vector."""
    rows = []
    for query, count in zip(queries, counts, strict=True):
        row = []
        for candidate, own in zip(candidates, others, strict=True):
            row.append(sum(max(query[t] @ candidate[s] for s in range(own)) for t in range(count)) / count)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("products", [1, 200, 1 << 24])
def test_the_loss_and_its_gradients_are_those_of_loops(products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "PRODUCTS", products)
    torch.manual_seed(0)
    counts, others, right = [3, 1, 5, 2], [2, 4, 1, 1, 6, 3], torch.tensor([4, 0, 2, 2])
    queries, candidates = _ragged(counts), _ragged(others)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    output = info_nce(queries, candidates, right, temperature, hardness=2.0)
    scores = _slow(queries, candidates, counts, others)
    wrong = F.one_hot(right, len(others)) == 0
    logits = scores / temperature + 2.0 * scores.detach() * wrong
    slow = F.cross_entropy(logits, right)
    given = (queries, candidates, temperature)
    for found, wanted in zip(torch.autograd.grad(output.loss, given), torch.autograd.grad(slow, given), strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(output.loss, slow)
    own = scores.gather(1, right[:, None])[:, 0]
    torch.testing.assert_close(output.positive, own.mean().detach())
    assert output.accuracy == (scores.argmax(1) == right).double().mean()


def test_one_vector_an_input_is_a_single_one() -> None:
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(9, 1, 6, dtype=torch.float64), dim=-1)
    indices = BatchIndices(torch.arange(4), torch.arange(4, 8), torch.tensor([8]), torch.tensor([1]))
    options = LossOptions(0.1, mask_margin=0.1, hardness=1.0)
    both = [contrast(own, indices, options, symmetric=True, same_side=True) for own in (vectors, vectors[:, 0])]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(similarity.as_one(vectors), vectors[:, 0])
