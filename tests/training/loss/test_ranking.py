"""The losses of a re-ranker equal what they say, written out candidate by candidate."""

from __future__ import annotations

import math

import pytest
import torch

from mllm_embed.training.loss.ranking import listwise, pointwise, softmax

MARGINS = torch.tensor([[1.5, -0.5, 2.0, 9.0], [0.2, 0.4, 9.0, 9.0]])
COUNTS = [3, 2]
KNOWN = torch.arange(4) < torch.tensor(COUNTS)[:, None]


def _log_yes(margin: float) -> float:
    return -math.log(1 + math.exp(-margin))


def test_each_candidate_by_itself_the_positive_as_much_as_all_others() -> None:
    rows = []
    for margins, count in zip(MARGINS.tolist(), COUNTS, strict=True):
        wrong = [-_log_yes(-margin) for margin in margins[1:count]]
        rows.append((-_log_yes(margins[0]) + sum(wrong) / len(wrong)) / 2)
    assert pointwise(MARGINS, KNOWN).item() == pytest.approx(sum(rows) / 2, abs=1e-6)


def test_the_positive_among_its_own_candidates() -> None:
    rows = []
    for margins, count in zip(MARGINS.tolist(), COUNTS, strict=True):
        rows.append(-margins[0] + math.log(sum(math.exp(margin) for margin in margins[:count])))
    assert softmax(MARGINS, KNOWN).item() == pytest.approx(sum(rows) / 2, abs=1e-6)


def test_the_positive_by_its_place_in_a_list() -> None:
    places = torch.tensor([2, 0])
    rows = []
    for logits, count, place in zip(MARGINS.tolist(), COUNTS, places.tolist(), strict=True):
        rows.append(-logits[place] + math.log(sum(math.exp(logit) for logit in logits[:count])))
    assert listwise(MARGINS, KNOWN, places).item() == pytest.approx(sum(rows) / 2, abs=1e-6)


def test_a_row_without_a_negative_has_nothing_to_be_told_apart_from() -> None:
    alone = torch.tensor([[True, False]])
    margins = torch.tensor([[0.3, 7.0]])
    assert softmax(margins, alone).item() == 0
    assert pointwise(margins, alone).item() == pytest.approx(-_log_yes(0.3) / 2, abs=1e-6)
