"""The loss against the loop that anyone would write, and against values known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mllm_embed.training.losses import contrast, info_nce, nested


def _units(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def _loop(queries, candidates, positives, temperature) -> float:
    """-log of the positive's share of exp(cosine / temperature), query by query."""
    total = 0.0
    for query, right in zip(queries, positives.tolist(), strict=True):
        shares = [math.exp(float(query @ candidate) / temperature) for candidate in candidates]
        total += -math.log(shares[right] / sum(shares))
    return total / len(queries)


def test_info_nce_equals_a_loop() -> None:
    torch.manual_seed(0)
    queries, candidates, positives = _units(5, 8), _units(9, 8), torch.tensor([3, 0, 8, 1, 3])
    loss, accuracy = info_nce(queries, candidates, positives, 0.05)
    assert loss.item() == pytest.approx(_loop(queries, candidates, positives, 0.05), rel=1e-5)
    best = (queries @ candidates.T).argmax(1)
    assert accuracy.item() == pytest.approx((best == positives).float().mean().item())


def test_closed_forms() -> None:
    same = F.normalize(torch.ones(6, 4), dim=-1)
    assert info_nce(same, same, torch.arange(6), 0.05)[0].item() == pytest.approx(math.log(6), abs=1e-5)
    assert info_nce(torch.eye(6), torch.eye(6), torch.arange(6), 0.01)[0].item() == pytest.approx(0, abs=1e-6)


def test_ignored_candidates_do_not_count() -> None:
    torch.manual_seed(0)
    queries, candidates, positives = _units(3, 4), _units(4, 4), torch.arange(3)
    ignore = torch.zeros(3, 4, dtype=torch.bool)
    ignore[:, 3] = True
    with_mask = info_nce(queries, candidates, positives, 0.1, ignore)[0]
    assert with_mask.item() == pytest.approx(info_nce(queries, candidates[:3], positives, 0.1)[0].item())


def test_stage_2_of_instructcir() -> None:
    """Released code: logits [cos(z1, z2) | cos(z1, z3)] / 0.05 against the diagonal, one direction."""
    torch.manual_seed(0)
    z1, z2, z3 = _units(6, 8), _units(6, 8), _units(6, 8)
    logits = torch.cat([z1 @ z2.T, z1 @ z3.T], dim=1).float() / 0.05
    expected = F.cross_entropy(logits, torch.arange(6))
    places = torch.arange(6)
    loss, _ = contrast(torch.cat([z1, z2, z3]), places, places + 6, places + 12, 0.05, symmetric=False)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_symmetric_is_the_mean_of_both_directions() -> None:
    torch.manual_seed(0)
    a, b, none = _units(5, 8), _units(5, 8), torch.zeros(0, dtype=torch.long)
    places = torch.arange(5)
    loss, _ = contrast(torch.cat([a, b]), places, places + 5, none, 0.07, symmetric=True)
    there, back = _loop(a, b, places, 0.07), _loop(b, a, places, 0.07)
    assert loss.item() == pytest.approx((there + back) / 2, rel=1e-5)


def test_a_shared_answer_is_no_false_negative() -> None:
    """Rows 0 and 1 have the same target: one column for both, and backwards neither counts against the other."""
    torch.manual_seed(0)
    vectors = _units(5, 8)  # three queries, two targets
    query, positive = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 4])
    none = torch.zeros(0, dtype=torch.long)
    one_way, _ = contrast(vectors, query, positive, none, 0.1, symmetric=False)
    assert one_way.item() == pytest.approx(_loop(vectors[:3], vectors[3:], torch.tensor([0, 0, 1]), 0.1), rel=1e-5)
    both, _ = contrast(vectors, query, positive, none, 0.1, symmetric=True)
    back = (
        _loop(vectors[[3]], vectors[[0, 2]], torch.tensor([0]), 0.1)
        + _loop(vectors[[3]], vectors[[1, 2]], torch.tensor([0]), 0.1)
        + _loop(vectors[[4]], vectors[[0, 1, 2]], torch.tensor([2]), 0.1)
    ) / 3
    assert both.item() == pytest.approx((one_way.item() + back) / 2, rel=1e-5)


def test_a_shared_query_backwards() -> None:
    """One caption for two pictures: each picture's own caption column is the right one."""
    torch.manual_seed(0)
    vectors = _units(5, 8)  # queries 0, 0, 1; positives 2, 3, 4
    query, positive = torch.tensor([0, 0, 1]), torch.tensor([2, 3, 4])
    none = torch.zeros(0, dtype=torch.long)
    loss, _ = contrast(vectors, query, positive, none, 0.1, symmetric=True)
    assert torch.isfinite(loss)
    back = _loop(vectors[[2, 3, 4]], vectors[[0, 1]], torch.tensor([0, 0, 1]), 0.1)
    there = (
        _loop(vectors[[0]], vectors[[2, 4]], torch.tensor([0]), 0.1)
        + _loop(vectors[[0]], vectors[[3, 4]], torch.tensor([0]), 0.1)
        + _loop(vectors[[1]], vectors[[2, 3, 4]], torch.tensor([2]), 0.1)
    ) / 3
    assert loss.item() == pytest.approx((there + back) / 2, rel=1e-5)


def _nt_xent(first, second, temperature) -> float:
    """RTD's and SimCLR's loop: each of the 2B vectors finds its partner among all others but itself."""
    joint, count, total = torch.cat([first, second]), len(first), 0.0
    for i in range(2 * count):
        shares = {k: math.exp(float(joint[i] @ joint[k]) / temperature) for k in range(2 * count) if k != i}
        total += -math.log(shares[(i + count) % (2 * count)] / sum(shares.values()))
    return total / (2 * count)


def test_symmetric_and_same_side_together_are_nt_xent() -> None:
    torch.manual_seed(0)
    queries, targets, none = _units(6, 8), _units(6, 8), torch.zeros(0, dtype=torch.long)
    places = torch.arange(6)
    loss, _ = contrast(torch.cat([queries, targets]), places, places + 6, none, 0.07, symmetric=True, same_side=True)
    assert loss.item() == pytest.approx(_nt_xent(targets, queries, 0.07), rel=1e-5)


def test_same_side_alone_adds_the_other_queries() -> None:
    torch.manual_seed(0)
    queries, targets, negatives = _units(4, 8), _units(4, 8), _units(4, 8)
    places = torch.arange(4)
    vectors = torch.cat([queries, targets, negatives])
    loss, accuracy = contrast(vectors, places, places + 4, places + 8, 0.1, same_side=True)
    total, best = 0.0, 0
    for i in range(4):
        candidates = torch.cat([targets, negatives, queries[[k for k in range(4) if k != i]]])
        total += _loop(queries[[i]], candidates, torch.tensor([i]), 0.1)
        best += int((candidates @ queries[i]).argmax() == i)
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)
    assert accuracy.item() == pytest.approx(best / 4)


def test_a_text_that_is_a_live_query_and_a_frozen_answer_is_no_false_negative() -> None:
    """RTD's refined batch of two rows, where the target of row 0 is the source text of row 1.

    Inputs: 0, 1 the composed queries; 2, 3 the source texts, of which 3 is also the target of 0; 4 the target of 1.
    """
    torch.manual_seed(0)
    live, frozen = {number: _units(8) for number in range(4)}, {number: _units(8) for number in (2, 3, 4)}
    vectors = torch.stack([*live.values(), *frozen.values()])
    inputs = torch.tensor([0, 1, 2, 3, 2, 3, 4])
    query, positive = torch.tensor([0, 1, 2, 3]), torch.tensor([5, 6, 4, 5])
    none = torch.zeros(0, dtype=torch.long)

    def row(asks, answer, *wrong) -> float:
        return _loop(asks[None], torch.stack([answer, *wrong]), torch.tensor([0]), 0.1)

    there = [
        row(live[0], frozen[3], frozen[2], frozen[4], live[1], live[2]),  # live 3 is the right answer, too
        row(live[1], frozen[4], frozen[2], frozen[3], live[0], live[2], live[3]),
        row(live[2], frozen[2], frozen[3], frozen[4], live[0], live[1], live[3]),
        row(live[3], frozen[3], frozen[2], frozen[4], live[0], live[1], live[2]),
    ]
    back = [
        row(frozen[3], live[0], live[1], live[2], frozen[2], frozen[4]),
        row(frozen[4], live[1], live[0], live[2], live[3], frozen[2], frozen[3]),
        row(frozen[2], live[2], live[0], live[1], live[3], frozen[3], frozen[4]),
        row(frozen[3], live[3], live[1], live[2], frozen[2], frozen[4]),
    ]
    one_way, _ = contrast(vectors, query, positive, none, 0.1, same_side=True, inputs=inputs)
    assert one_way.item() == pytest.approx(sum(there) / 4, rel=1e-5)
    both, _ = contrast(vectors, query, positive, none, 0.1, symmetric=True, same_side=True, inputs=inputs)
    assert both.item() == pytest.approx(sum(there + back) / 8, rel=1e-5)


def test_a_query_is_not_its_own_negative() -> None:
    """A premise that is also a hard negative of another row: 1 asks, and stands among the candidates as 1."""
    torch.manual_seed(0)
    vectors = _units(4, 8)  # queries 0, 1; positives 2, 3; negatives 1, 0
    loss, _ = contrast(vectors, torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([1, 0]), 0.1)
    expected = (
        _loop(vectors[[0]], vectors[[2, 3, 1]], torch.tensor([0]), 0.1)
        + _loop(vectors[[1]], vectors[[3, 2, 0]], torch.tensor([0]), 0.1)
    ) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_nested_vectors_are_the_first_dimensions_at_length_one() -> None:
    torch.manual_seed(0)
    vectors = _units(5, 8)
    cuts = nested(vectors, [2, 5])
    assert list(cuts) == [2, 5, 8] and cuts[8] is vectors
    for dim in (2, 5):
        for row, cut in zip(vectors, cuts[dim], strict=True):
            length = math.sqrt(sum(float(x) ** 2 for x in row[:dim]))
            assert cut.tolist() == pytest.approx([float(x) / length for x in row[:dim]])
    assert list(nested(vectors, [])) == [8]
