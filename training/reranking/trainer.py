"""The loss of a re-ranking stage, over the candidates of each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..loss.ranking import listwise, pointwise, softmax
from ..recipe.reranker.stage import RerankStage
from ..run.stage.stage_trainer import StageTrainer
from .batch import RerankBatch, RerankCollator


class RerankTrainer(StageTrainer):
    """A Trainer of a BatchScorer, with the terms of one stage over the rows of a step."""

    stage: RerankStage

    def __init__(self, *args: Any, collate: RerankCollator, **kwargs: Any):
        """Set the collator, which has to know the epoch, beside what a StageTrainer takes."""
        super().__init__(*args, **kwargs)
        self.collate = collate

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, a scalar. Raise the error that a worker handed on in a batch's place."""
        batch: RerankBatch = self.taken(inputs)
        margins, logits = model(batch)
        losses = self._losses(batch, margins, logits)
        weighted = [self.stage.weights[form] * loss for form, loss in losses.items()]
        total = sum(weighted[1:], weighted[0])
        for form, loss in losses.items():
            self.throughput.add_value(f"loss/{form}", loss)
        if not torch.isfinite(total):
            self.guard.stop_not_finite(model, {form: loss.item() for form, loss in losses.items()})
        return (total, margins) if return_outputs else total

    def _losses(self, batch: RerankBatch, margins: Tensor, logits: Tensor) -> dict[str, Tensor]:
        counts = batch.counts.to(margins.device)
        columns = torch.arange(int(counts.max()), device=margins.device)
        known = columns < counts[:, None]
        losses: dict[str, Tensor] = {}
        if batch.pairs:
            table = margins.new_full(known.shape, -torch.inf)
            table = table.index_put((batch.rows.to(margins.device), batch.places.to(margins.device)), margins)
            found = table.argmax(1) == 0
            finite = table.masked_fill(~known, 0.0)
            for form, loss in (("pointwise", pointwise), ("softmax", softmax)):
                if form in self.stage.weights:
                    losses[form] = loss(finite, known)
                    self.throughput.add_value(f"accuracy/{form}", found.float().mean())
        if batch.lists:
            place = (batch.orders.to(margins.device) == 0).int().argmax(1)
            named = logits[:, : known.shape[1]]
            losses["listwise"] = listwise(named, known, place)
            right = named.masked_fill(~known, -torch.inf).argmax(1) == place
            self.throughput.add_value("accuracy/listwise", right.float().mean())
        return losses

    def _run_epoch(self, model: Any, epoch: Any, *args: Any, **kwargs: Any) -> None:
        self.collate.epoch = epoch  # before the worker processes of the epoch are started
        super()._run_epoch(model, epoch, *args, **kwargs)
