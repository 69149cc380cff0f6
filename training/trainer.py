"""transformers' Trainer with few overrides: the loss, the sampler, and what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer

from mllm_embed.errors import ModelError

from .bank import Bank
from .collator import Batch
from .config import Stage, Term
from .gathering import Pool, gather
from .losses import Asked, Weighing, contrast, contrast_bank, nested
from .meter import Meter, mean_cosine
from .tiled import Found
from .watch import Watch

TRAINABLE_FILE = "trainable.safetensors"


class ContrastiveTrainer(Trainer):
    """Trains a BatchEncoder with the terms of one stage over the rows of all processes. Logs what each term found.

    A checkpoint holds the trainable parameters alone, beside Trainer's own optimiser, scheduler and random states.
    """

    def __init__(self, *args: Any, stage: Stage, order: Sampler[int] | None, banks: dict[str, Bank], **kwargs: Any):
        """`order` gives the numbers of the rows, none for a stream; `banks` the candidates of terms, by name."""
        super().__init__(*args, **kwargs)
        self.stage, self.order, self.banks = stage, order, banks
        self.model_accepts_loss_kwargs = False
        self.meter, self.watch = Meter(self.args.device), Watch(stage, Path(self.args.output_dir))
        self.add_callback(self.meter)
        self.add_callback(self.watch)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        if "error" in inputs:
            raise inputs["error"]
        batch: Batch = inputs["batch"]
        vectors, temperature = model(batch)
        weighing = Weighing(temperature.to(vectors.device), self.stage.mask_margin, self.stage.hardness)
        pool = gather(vectors, batch, self.args.per_device_train_batch_size)
        losses = [(term, self._loss(term, pool, batch, weighing)) for term in self.stage.terms]
        total = sum(term.weight * loss for term, loss in losses)
        trained = torch.cat([place for use, place in pool.places.items() if not use.frozen]).unique()
        cosine = mean_cosine(pool.vectors[trained])
        self.meter.saw(batch)
        self.meter.note("temperature", temperature)
        self.meter.note("mean_cosine", cosine)
        self.watch.look(model, losses, total, cosine, pool, batch)
        return (total, vectors) if return_outputs else total

    def _loss(self, term: Term, pool: Pool, batch: Batch, weighing: Weighing) -> Tensor:
        """The loss of one term, the mean over the stage's nested dimensions."""
        losses = []
        for dim, cut in nested(pool.vectors, self.stage.matryoshka).items():
            found = self._banked(term, cut, pool, batch, weighing) if term.bank else _live(term, cut, pool, weighing)
            losses.append(found.loss)
            self._note_all(term, "" if dim == pool.vectors.shape[1] else f"@{dim}", found)
        mean = torch.stack(losses).mean()
        self.meter.note(f"loss/{term.name}", mean)
        if not term.bank:
            asked = torch.cat([pool.places[use] for use in term.positives])
            self.meter.note(f"repeated/{term.name}", mean.new_tensor(1 - len(asked.unique()) / len(asked)))
        return mean

    def _banked(self, term: Term, vectors: Tensor, pool: Pool, batch: Batch, weighing: Weighing) -> Found:
        bank = self.banks[term.name].on(vectors)
        query = pool.places[term.queries[0]][pool.mine]
        asks, answers = (batch.keys[role].to(vectors.device) for role in (term.query[0], term.positive[0]))
        return contrast_bank(
            vectors[query], asks, bank.vectors, bank.inputs, bank.places(answers), (bank.asked, bank.answers), weighing
        )

    def _note_all(self, term: Term, cut: str, found: Found) -> None:
        for name in ("accuracy",) if cut else ("accuracy", "positive", "hardest", "negatives", "masked"):
            if name != "masked" or self.stage.mask_margin is not None:
                self.meter.note(f"{name}/{term.name}{cut}", getattr(found, name))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= self.meter.figures()
        if "train_runtime" not in logs:  # Trainer's closing line says nothing that the others do not
            super().log(logs, *args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.meter.starts()
        found = super().get_batch_samples(*args, **kwargs)
        self.meter.has_rows()
        return found

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.watch.gradient(norm)
        return norm

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return self.order

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if "temperature" not in name.split(".")]

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


def _live(term: Term, vectors: Tensor, pool: Pool, weighing: Weighing) -> Found:
    """Several queries of a term are so many times the rows, which share one softmax."""
    rows, times = pool.rows, len(term.queries)
    starts = torch.arange(times, device=vectors.device)[:, None] * rows
    negatives = torch.cat([pool.places[use] for use in term.others] or [pool.inputs[:0]])
    owners = torch.cat([pool.owners_of(use) for use in term.others] or [pool.inputs[:0]])
    asked = Asked(
        query=torch.cat([pool.places[use] for use in term.queries]),
        positive=torch.cat([pool.places[use] for use in term.positives]),
        negatives=negatives.repeat(times),
        owners=(owners + starts).flatten(),
        mine=(pool.mine + starts).flatten(),
    )
    return contrast(vectors, asked, weighing, term.symmetric, term.same_side, pool.inputs)
