"""transformers' Trainer with three overrides: the loss, the sampler, and what a checkpoint holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from mllm_embed.errors import ModelError

from .config import Stage
from .losses import contrast
from .sampler import GroupedSampler

TRAINABLE_FILE = "trainable.safetensors"


class BatchEncoder(nn.Module):
    """Runs every micro-batch of a step in one forward, so that DDP and DeepSpeed see one forward and one backward."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, micro_batches: list[dict[str, Tensor]]) -> Tensor:
        """-> [U, D] float32, L2-normalised."""
        return torch.cat([self.model(**batch) for batch in micro_batches])

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
        vectors = model(inputs["micro_batches"])
        total = vectors.new_zeros(())
        for term in self.stage.terms:
            places = inputs["places"]
            negatives = [places[role] for role in term.negatives] or [places[term.query][:0]]
            loss, accuracy = contrast(
                vectors, places[term.query], places[term.positive], torch.cat(negatives),
                self.stage.temperature, term.symmetric,
            )  # fmt: skip
            total = total + term.weight * loss
            name = f"{term.query}-{term.positive}"
            self._seen.setdefault(f"loss/{name}", []).append(loss.detach())
            self._seen.setdefault(f"accuracy/{name}", []).append(accuracy)
        if not math.isfinite(total.item()):
            raise ModelError(f"the loss is {total.item()} at step {self.state.global_step}; lower the learning rate")
        return (total, vectors) if return_outputs else total

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
