"""The loss with a guide against the loop that anyone would write."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mllm_embed.training.false_negatives.guide import Guided, GuideRule
from mllm_embed.training.loss.losses import BatchIndices, Guidance, LossOptions, contrast
from mllm_embed.training.loss.tiled import Ignored, Pairs, info_nce


def _units(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def _loop(queries, candidates, positives, guide_queries, guide_candidates, limit, spared=()) -> tuple[float, float]:
    """The mean of -log of the positive's share, and of how many candidates the guide leaves out, query by query."""
    total, left_out = 0.0, 0
    for row, right in enumerate(positives):
        own = float(guide_queries[row] @ guide_candidates[right])
        shares = {}
        for column in range(len(candidates)):
            near = float(guide_queries[row] @ guide_candidates[column]) > limit(own)
            if column != right and near and (row, column) not in spared:
                left_out += 1
                continue
            shares[column] = math.exp(float(queries[row] @ candidates[column]) / 0.1)
        total -= math.log(shares[right] / sum(shares.values()))
    return total / len(positives), left_out / len(positives)


@pytest.mark.parametrize(
    ("rule", "limit"),
    [
        (GuideRule(), lambda own: own),
        (GuideRule(margin=0.2), lambda own: own + 0.2),
        (GuideRule(margin=-0.1), lambda own: own - 0.1),
        (GuideRule(ceiling=0.9), lambda own: own - 0.1 * abs(own)),
    ],
)
def test_what_a_guide_finds_nearer_is_left_out(rule: GuideRule, limit) -> None:
    torch.manual_seed(0)
    queries, candidates, seen, found = _units(7, 8), _units(11, 8), _units(7, 5), _units(11, 5)
    positives, spared = torch.tensor([3, 0, 8, 1, 3, 10, 4]), {(0, 1), (2, 2), (5, 9)}
    pairs = Pairs(*torch.tensor(sorted(spared)).T)
    guided = Guided.of(seen, found, found[positives], rule)
    unmasked = info_nce(queries, candidates, positives, 0.1)
    for kept in ((), spared):
        expected, count = _loop(queries, candidates, positives.tolist(), seen, found, limit, kept)
        for tile in ((1024, 4096), (3, 4)):
            output = info_nce(
                queries, candidates, positives, 0.1, tile=tile, guided=guided, spared=pairs if kept else None
            )
            assert output.loss.item() == pytest.approx(expected, rel=1e-6)
            assert output.guided.item() == pytest.approx(count) and output.masked.item() == 0
            assert output.negatives.item() == pytest.approx(10 - count)
        assert count > 1 and output.loss.item() < unmasked.loss.item()


def test_the_gradients_are_those_of_the_candidates_that_stay() -> None:
    torch.manual_seed(1)
    queries, candidates = _units(6, 8).requires_grad_(), _units(9, 8).requires_grad_()
    positives, found = torch.arange(6), _units(9, 4)
    guided = Guided.of(_units(6, 4), found, found[:6], GuideRule())
    info_nce(queries, candidates, positives, 0.1, tile=(2, 4), guided=guided).loss.backward()
    gradients = queries.grad.clone(), candidates.grad.clone()
    queries.grad = candidates.grad = None
    logits = queries @ candidates.T / 0.1
    out = guided.queries @ guided.candidates.T > guided.limit[:, None]
    out[positives, positives] = False
    F.cross_entropy(logits.masked_fill(out, float("-inf")), positives).backward()
    assert torch.allclose(gradients[0], queries.grad) and torch.allclose(gradients[1], candidates.grad)


def test_an_equal_candidate_is_not_nearer_and_what_the_guide_never_saw_stays() -> None:
    """Another copy of a positive has its cosine but for rounding; a vector that is not there is NaN."""
    torch.manual_seed(2)
    seen, found = _units(4, 96).float(), _units(4, 96).float()
    twice = torch.cat([found, found])
    guided = Guided.of(seen, twice, found, GuideRule())
    rows = slice(0, 4)
    assert not guided.nearer(rows, slice(4, 8)).diagonal().any()
    blind = twice.clone()
    blind[1] = float("nan")  # the positive of row 1, and a candidate of all others
    near = Guided.of(seen, blind, blind[:4], GuideRule(margin=-2)).nearer(rows, slice(0, 8))
    assert not near[1].any() and not near[:, 1].any() and near[0, 2:].all()


def test_a_guide_counts_what_no_other_mask_left_out() -> None:
    torch.manual_seed(3)
    queries, candidates, positives = _units(3, 8), _units(5, 8), torch.arange(3)
    seen = _units(5, 4)
    guided = Guided.of(_units(3, 4), seen, seen[:3], GuideRule(margin=-2))  # everything but the positives
    known = Ignored(torch.zeros(3, dtype=torch.long), Pairs(torch.tensor([0]), torch.tensor([3])))
    output = info_nce(queries, candidates, positives, 0.1, known, None, 0.0, guided=guided)
    assert (output.guided.item(), output.masked.item(), output.negatives.item()) == (3, 0, 0)
    assert output.loss.item() == pytest.approx(0)


def _one_way(vectors, inputs, rows, negatives, guide, same_side) -> float:
    """Row by row: all positives and negatives, on the same side all that ask, each input once; what is right for the
    row's query in any row, and the query itself, do not count; nor does what the guide finds nearer."""
    total = 0.0
    for query, positive in rows:
        seen = guide[query]
        limit = float(seen @ guide[positive])
        right = {inputs[p] for q, p in rows if inputs[q] == inputs[query]} | {inputs[query]}
        candidates = (
            {p for _, p in rows} | {n for _, n, _ in negatives} | ({q for q, _ in rows} if same_side else set())
        )
        spared = {n for owner, n, fixed in negatives if fixed and rows[owner] == (query, positive)}
        shares = {}
        for one in candidates:
            near = float(seen @ guide[one]) > limit and one not in spared
            if one == positive or not (inputs[one] in right or near):
                shares[one] = math.exp(float(vectors[query] @ vectors[one]) / 0.1)
        total -= math.log(shares[positive] / sum(shares.values()))
    return total / len(rows)


@pytest.mark.parametrize("same_side", [False, True])
def test_a_guide_masks_both_ways_and_on_the_same_side(same_side: bool) -> None:
    """Rows 0 and 3 share a target, rows 1 and 2 ask the same; row 0 brings a negative that is wrong by its role, row 2
    one that was mined, and the guide finds both nearer than their positives."""
    torch.manual_seed(5)
    vectors, guide = _units(10, 8), _units(10, 6)
    inputs = list(range(10))
    rows = [(0, 4), (1, 5), (1, 6), (3, 4), (2, 7)]
    negatives = [(0, 8, True), (2, 9, False)]
    guide[8], guide[9] = guide[0], guide[1]
    query, positive = (torch.tensor([row[side] for row in rows]) for side in (0, 1))
    owners, places = torch.tensor([0, 2]), torch.tensor([8, 9])
    indices = BatchIndices(query, positive, places, owners)
    # the guide's vectors lie in another order, and one stands twice
    order = torch.tensor([3, 9, 1, 0, 2, 4, 6, 5, 8, 7])
    place = torch.argsort(order)
    table = torch.cat([guide[order], guide[:1]])
    theirs = BatchIndices(place[query], place[positive], place[places], owners)
    guidance = Guidance(table, theirs, torch.tensor([True, False]), GuideRule())
    options = LossOptions(0.1)
    numbers = torch.tensor(inputs)
    found = contrast(vectors, indices, options, False, same_side, numbers, guidance=guidance)
    there = _one_way(vectors, inputs, rows, negatives, guide, same_side)
    assert found.loss.item() == pytest.approx(there, rel=1e-6)
    both = contrast(vectors, indices, options, True, same_side, numbers, guidance=guidance)
    back = _one_way(vectors, inputs, [(p, q) for q, p in rows], [], guide, same_side)
    assert both.loss.item() == pytest.approx((there + back) / 2, rel=1e-6)
    plain = contrast(vectors, indices, options, True, same_side, numbers)
    assert both.loss.item() < plain.loss.item() - 0.05
    halves = []
    for part in ([0, 1, 2], [3, 4]):  # as two processes have them
        own, known = (replace(one, local_rows=torch.tensor(part)) for one in (indices, theirs))
        guided = replace(guidance, indices=known)
        halves.append(contrast(vectors, own, options, False, same_side, numbers, guidance=guided).loss.item())
    assert (3 * halves[0] + 2 * halves[1]) / 5 == pytest.approx(there, rel=1e-6)
