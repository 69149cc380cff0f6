"""The loss against the loop that anyone would write, and against values known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mllm_embed.training.distributed.memory_tracker import MemoryTracker
from mllm_embed.training.loss.losses import BatchIndices, LossOptions, contrast, contrast_bank, nested
from mllm_embed.training.loss.tiled import Ignored, Pairs, info_nce

NONE = torch.zeros(0, dtype=torch.long)


def _units(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def _contrast(vectors, query, positive, negatives, temperature, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row brings as many of the negatives as the next."""
    owners = torch.arange(len(negatives)) % max(len(query), 1)
    found = contrast(vectors, BatchIndices(query, positive, negatives, owners), LossOptions(temperature), **options)
    return found.loss, found.accuracy


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
    loss, accuracy, *_ = info_nce(queries, candidates, positives, 0.05)
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
    known = Ignored(torch.zeros(3, dtype=torch.long), Pairs(torch.tensor([0]), torch.tensor([3])))
    with_mask = info_nce(queries, candidates, positives, 0.1, known)[0]
    assert with_mask.item() == pytest.approx(info_nce(queries, candidates[:3], positives, 0.1)[0].item())


def test_stage_2_of_instructcir() -> None:
    """Released code: logits [cos(z1, z2) | cos(z1, z3)] / 0.05 against the diagonal, one direction."""
    torch.manual_seed(0)
    z1, z2, z3 = _units(6, 8), _units(6, 8), _units(6, 8)
    logits = torch.cat([z1 @ z2.T, z1 @ z3.T], dim=1).float() / 0.05
    expected = F.cross_entropy(logits, torch.arange(6))
    places = torch.arange(6)
    loss, _ = _contrast(torch.cat([z1, z2, z3]), places, places + 6, places + 12, 0.05, symmetric=False)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_symmetric_is_the_mean_of_both_directions() -> None:
    torch.manual_seed(0)
    a, b = _units(5, 8), _units(5, 8)
    places = torch.arange(5)
    loss, _ = _contrast(torch.cat([a, b]), places, places + 5, NONE, 0.07, symmetric=True)
    there, back = _loop(a, b, places, 0.07), _loop(b, a, places, 0.07)
    assert loss.item() == pytest.approx((there + back) / 2, rel=1e-5)


def test_a_shared_answer_is_no_false_negative() -> None:
    """Rows 0 and 1 have the same target: one column for both, and backwards neither counts against the other."""
    torch.manual_seed(0)
    vectors = _units(5, 8)  # three queries, two targets
    query, positive = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 4])
    one_way, _ = _contrast(vectors, query, positive, NONE, 0.1, symmetric=False)
    assert one_way.item() == pytest.approx(_loop(vectors[:3], vectors[3:], torch.tensor([0, 0, 1]), 0.1), rel=1e-5)
    both, _ = _contrast(vectors, query, positive, NONE, 0.1, symmetric=True)
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
    loss, _ = _contrast(vectors, query, positive, NONE, 0.1, symmetric=True)
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
    queries, targets = _units(6, 8), _units(6, 8)
    places = torch.arange(6)
    loss, _ = _contrast(torch.cat([queries, targets]), places, places + 6, NONE, 0.07, symmetric=True, same_side=True)
    assert loss.item() == pytest.approx(_nt_xent(targets, queries, 0.07), rel=1e-5)


def test_same_side_alone_adds_the_other_queries() -> None:
    torch.manual_seed(0)
    queries, targets, negatives = _units(4, 8), _units(4, 8), _units(4, 8)
    places = torch.arange(4)
    vectors = torch.cat([queries, targets, negatives])
    loss, accuracy = _contrast(vectors, places, places + 4, places + 8, 0.1, same_side=True)
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
    one_way, _ = _contrast(vectors, query, positive, NONE, 0.1, same_side=True, inputs=inputs)
    assert one_way.item() == pytest.approx(sum(there) / 4, rel=1e-5)
    both, _ = _contrast(vectors, query, positive, NONE, 0.1, symmetric=True, same_side=True, inputs=inputs)
    assert both.item() == pytest.approx(sum(there + back) / 8, rel=1e-5)


def test_a_query_is_not_its_own_negative() -> None:
    """A premise that is also a hard negative of another row: 1 asks, and stands among the candidates as 1."""
    torch.manual_seed(0)
    vectors = _units(4, 8)  # queries 0, 1; positives 2, 3; negatives 1, 0
    loss, _ = _contrast(vectors, torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([1, 0]), 0.1)
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


def _plain(queries, candidates, positives, scale, known, brought, margin, hardness) -> torch.Tensor:
    """All scores at once, and cross-entropy."""
    scores = queries @ candidates.T
    right = F.one_hot(positives, len(candidates)).bool()
    own = scores[right][:, None]
    left_out = torch.zeros_like(right)
    for asker, column in zip(*known.pairs, strict=True):
        left_out[known.askers == asker, column] = True
    if margin is not None:
        exempt = torch.zeros_like(right)
        exempt[brought.rows, brought.columns] = True
        left_out |= (scores > own + margin) & ~exempt
    logits = scores * scale + hardness * scores.detach().masked_fill(right, 0)
    return F.cross_entropy(logits.masked_fill(left_out & ~right, float("-inf")), positives)


@pytest.mark.parametrize("tile", [(1000, 1000), (7, 5), (1, 1), (3, 64)], ids=str)
@pytest.mark.parametrize(("margin", "hardness"), [(None, 0.0), (0.05, 0.0), (None, 9.0), (0.05, 2.0)])
def test_tiles_change_neither_loss_nor_gradient(tile, margin, hardness) -> None:
    torch.manual_seed(0)
    raw = [torch.randn(23, 16, dtype=torch.float64), torch.randn(31, 16, dtype=torch.float64)]
    positives = torch.randint(0, 31, (23,))
    pairs = Pairs(torch.tensor([0, 0, 4, 5]), torch.tensor([1, 30, int(positives[4]), 7]))
    known = Ignored(torch.arange(23) % 6, pairs)
    brought = Pairs(torch.arange(23).flip(0), torch.randint(0, 31, (23,)))
    results = []
    for tiled in (True, False):
        queries, candidates = (part.clone().requires_grad_() for part in raw)
        temperature = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
        given = F.normalize(queries, dim=-1), F.normalize(candidates, dim=-1), positives
        if tiled:
            loss = info_nce(*given, temperature, known, brought, margin, hardness, tile).loss
        else:
            loss = _plain(*given, 1 / temperature, known, brought, margin, hardness)
        (3 * loss).backward()
        results.append([loss.detach(), queries.grad, candidates.grad, temperature.grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_gradients_against_differences() -> None:
    torch.manual_seed(0)
    queries, candidates = _units(4, 6).requires_grad_(), _units(5, 6).requires_grad_()
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    positives, known = torch.tensor([0, 2, 2, 4]), Ignored(torch.arange(4), Pairs(torch.tensor([1]), torch.tensor([3])))

    def loss(*given):
        return info_nce(*given[:2], positives, given[2], known, tile=(3, 2)).loss

    assert torch.autograd.gradcheck(loss, (queries, candidates, temperature))


def test_what_a_term_saw() -> None:
    """Two queries: the first is left one of three negatives, the second's best candidate is beyond the margin."""
    queries = torch.eye(3)[:2]
    candidates = F.normalize(torch.tensor([[1.0, 0.2, 0], [0.3, 1, 0.5], [0.1, 1, 0], [0.5, 0, 1]]), dim=-1)
    known = Ignored(torch.arange(2), Pairs(torch.tensor([0, 0]), torch.tensor([1, 3])))
    found = info_nce(queries, candidates, torch.tensor([0, 1]), 0.1, known)
    cosines = queries @ candidates.T
    assert found.accuracy.item() == 0.5 and found.negatives.item() == (1 + 3) / 2 and found.masked.item() == 0
    assert found.positive.item() == pytest.approx((cosines[0, 0] + cosines[1, 1]).item() / 2)
    assert found.hardest.item() == pytest.approx((cosines[0, 2] + cosines[1, 2]).item() / 2)
    masked = info_nce(queries, candidates, torch.tensor([0, 1]), 0.1, mask_margin=0.1)
    assert masked.accuracy.item() == 1 and masked.masked.item() == 0.5 and masked.negatives.item() == (3 + 2) / 2
    own = Pairs(torch.tensor([1]), torch.tensor([2]))
    assert info_nce(queries, candidates, torch.tensor([0, 1]), 0.1, brought=own, mask_margin=0.1).masked.item() == 0
    alone = info_nce(queries[:1], candidates[:1], torch.tensor([0]), 0.1)
    assert alone.negatives.item() == 0 and math.isnan(alone.hardest.item()) and alone.loss.item() == 0


def test_rows_of_two_processes_add_up_to_the_batch() -> None:
    """Each process computes the loss of its rows against everybody's candidates; an input that both hold is one."""
    torch.manual_seed(0)
    vectors = _units(18, 8)
    vectors[15] = vectors[3]  # both encoded the same target
    inputs = torch.arange(18)
    inputs[15] = 3
    query, positive, negatives = (
        torch.arange(6),
        torch.tensor([6, 7, 3, 8, 15, 9]),
        torch.tensor([10, 11, 12, 13, 3, 2]),
    )
    owners = torch.arange(6)
    whole = contrast(
        vectors, BatchIndices(query, positive, negatives, owners), LossOptions(0.1, 0.1), True, True, inputs
    )
    halves = [
        contrast(
            vectors, BatchIndices(query, positive, negatives, owners, rows), LossOptions(0.1, 0.1), True, True, inputs
        )
        for rows in (torch.arange(3), torch.arange(3, 6))
    ]
    for one, *parts in zip(whole, *halves, strict=True):
        assert one.item() == pytest.approx(sum(part.item() for part in parts) / 2, rel=1e-6)


def test_a_bank_is_all_targets_at_once() -> None:
    """Query 0 has two right answers in the stage, the batch asks for one; query 1 stands in the bank itself."""
    torch.manual_seed(0)
    queries, bank = _units(2, 8), _units(6, 8)
    asks, bank_inputs = torch.tensor([70, 71]), torch.tensor([10, 11, 12, 13, 71, 15])
    right = torch.tensor([70, 71, 70]), torch.tensor([10, 11, 13])
    found = contrast_bank(queries, asks, bank, bank_inputs, torch.tensor([0, 1]), right, LossOptions(0.1))
    expected = (
        _loop(queries[[0]], bank[[0, 1, 2, 4, 5]], torch.tensor([0]), 0.1)
        + _loop(queries[[1]], bank[[1, 0, 2, 3, 5]], torch.tensor([0]), 0.1)
    ) / 2
    assert found.loss.item() == pytest.approx(expected, rel=1e-6)


def test_rows_that_ask_the_same_take_no_more_memory() -> None:
    """Each of 2,048 rows has its own answer: 8 askers have 256 right ones each, in 524,288 pairs of row and answer."""
    torch.manual_seed(0)
    rows, vectors = torch.arange(2048), _units(4096, 4)
    peaks = {}
    for askers in (8, 2048):
        inputs = torch.cat([rows % askers, rows + 2048])
        with MemoryTracker() as live:
            contrast(vectors, BatchIndices(rows, rows + 2048), LossOptions(0.1), inputs=inputs)
        peaks[askers] = live.peak
    assert peaks[8] < 1.1 * peaks[2048]
