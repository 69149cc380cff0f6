"""transformers' Trainer with three overrides: the loss, the sampler, and what a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from mllm_embed.errors import ModelError

from .config import Stage, Term, Use
from .losses import contrast, nested
from .sampler import GroupedSampler

TRAINABLE_FILE = "trainable.safetensors"


class BatchEncoder(nn.Module):
    """Runs every micro-batch of a step in one forward, so that DDP and DeepSpeed see one forward and one backward.

    Frozen ones give the vectors of the base model, bit for bit: without adapter, dropout or gradient.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, live: list[dict[str, Tensor]], frozen: Sequence[dict[str, Tensor]] = ()) -> Tensor:
        """-> [U, D] float32, L2-normalised, the live ones first."""
        return torch.cat([*(self.model(**batch) for batch in live), *self._frozen(frozen)])

    @torch.no_grad()
    def _frozen(self, micro_batches: Sequence[dict[str, Tensor]]) -> list[Tensor]:
        if not micro_batches:
            return []
        training = self.model.training
        self.model.eval()
        try:
            with self.model.backbone.disable_adapter():
                return [self.model(**batch) for batch in micro_batches]
        finally:
            self.model.train(training)

    def trainable(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}


class ContrastiveTrainer(Trainer):
    """Trains a BatchEncoder with the terms of one stage. Logs each term's loss and in-batch accuracy.

    A checkpoint holds the trainable parameters alone, beside Trainer's own optimiser, scheduler and random states.
    """

    def __init__(self, *args: Any, stage: Stage, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stage = stage
        self.model_accepts_loss_kwargs = False
        self._seen: dict[str, list[Tensor]] = {}

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        if "error" in inputs:
            raise inputs["error"]
        vectors = model(inputs["live"], inputs["frozen"])
        total = vectors.new_zeros(())
        for term in self.stage.terms:
            total = total + term.weight * self._loss(term, vectors, inputs["places"], inputs["inputs"])
        if not math.isfinite(total.item()):
            raise ModelError(f"the loss is {total.item()} at step {self.state.global_step}; lower the learning rate")
        return (total, vectors) if return_outputs else total

    def _loss(self, term: Term, vectors: Tensor, places: dict[Use, Tensor], inputs: Tensor) -> Tensor:
        """The loss of one term, the mean over the stage's nested dimensions."""
        query, positive = (torch.cat([places[use] for use in uses]) for uses in (term.queries, term.positives))
        negatives = torch.cat([places[use] for use in term.others] or [query[:0]])
        losses = []
        for dim, cut in nested(vectors, self.stage.matryoshka).items():
            loss, accuracy = contrast(
                cut, query, positive, negatives, self.stage.temperature, term.symmetric, term.same_side, inputs
            )
            losses.append(loss)
            self._note(f"accuracy/{term.name}" + (f"@{dim}" if dim < vectors.shape[1] else ""), accuracy)
        mean = torch.stack(losses).mean()
        self._note(f"loss/{term.name}", mean.detach())
        return mean

    def _note(self, name: str, value: Tensor) -> None:
        self._seen.setdefault(name, []).append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        logs |= {name: round(torch.stack(values).mean().item(), 4) for name, values in self._seen.items()}
        self._seen.clear()
        super().log(logs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedSampler:
        rows = train_dataset or self.train_dataset
        return GroupedSampler([row.group for row in rows], self.stage.per_image, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        names = self.accelerator.unwrap_model(self.model).trainable()
        gathered = state_dict or names
        save_file({name: gathered[name].detach().contiguous().cpu() for name in names}, folder / TRAINABLE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        try:
            state = load_file(Path(resume_from_checkpoint) / TRAINABLE_FILE)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"checkpoint {resume_from_checkpoint} is damaged; remove it to resume before it"
            ) from error
        wanted = self.accelerator.unwrap_model(self.model).trainable()
        if state.keys() != wanted.keys():
            raise ModelError(f"{resume_from_checkpoint} was made with other LoRA settings; start a new output folder")
        for name, parameter in wanted.items():
            parameter.copy_(state[name])
