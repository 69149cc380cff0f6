"""Losses of a re-ranker over the candidates of rows, of which the first is right: pure functions of its logits.

B is the number of rows, n the most candidates of one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pointwise(margins: Tensor, known: Tensor) -> Tensor:
    """Return the mean loss of judging each candidate by itself, a scalar: yes for the first, no for the others.

    The cross-entropy of two words, log(1 + exp(-m)) for the positive's margin m and log(1 + exp(m)) for another's; the
    positive of a row weighs as much as its negatives together, or "no" to everything would be a good start.

    Args:
        margins: [B, n], logits of yes less those of no.
        known: [B, n] bool, false where a row has fewer candidates.
    """
    wrong = known[:, 1:]
    no = (F.softplus(margins[:, 1:]) * wrong).sum(1) / wrong.sum(1).clamp(min=1)
    return ((F.softplus(-margins[:, 0]) + no) / 2).mean()


def softmax(margins: Tensor, known: Tensor) -> Tensor:
    """Return the mean loss of finding the positive among its row's candidates by their margins, a scalar.

    The localised contrastive loss of arXiv 2101.08751. Arguments as of `pointwise`.
    """
    return F.cross_entropy(margins.masked_fill(~known, -torch.inf), torch.zeros_like(margins[:, 0], dtype=torch.long))


def listwise(logits: Tensor, known: Tensor, places: Tensor) -> Tensor:
    """Return the mean loss of naming the positive in a list, a scalar.

    Args:
        logits: [B, n], of the labels that a list's candidates have, in the list's order.
        known: [B, n] bool, false for labels that no candidate has.
        places: [B] int64, where in its list the positive stands.
    """
    return F.cross_entropy(logits.masked_fill(~known, -torch.inf), places)
