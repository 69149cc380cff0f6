"""The loss of a contrastive stage: its terms over the rows of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mllm_embed.errors import DataError

from ..batch.collator import ContrastiveBatch
from ..distill.bank import Bank
from ..distill.judgements import Judgements, judged_lists
from ..distributed.gathering import GatheredBatch, gather
from ..distributed.term_loss import term_loss
from ..false_negatives.guide import Guided, GuideRule
from ..false_negatives.known import ASKED, RIGHT, KnownAnswers
from ..loss.flops import flops, share_of_penalty
from ..loss.jpq import Codes, jpq
from ..loss.judged import judged
from ..loss.losses import LossOptions, LossOutput, contrast_bank, distil, nested
from ..loss.right_answers import left_out, right_answers
from ..loss.similarity import as_one
from ..loss.tiled import Ignored, Pairs
from ..recipe.stage import Stage
from ..recipe.stage_keys.terms import RoleUse, Term
from ..recipe.trained.lexical import LexicalSection
from .divergence import DivergenceGuard
from .stage.stage_trainer import StageTrainer
from .throughput import mean_cosine


def check_taught_rows(batch: ContrastiveBatch) -> None:
    """Raise DataError for rows of which a query avoids something, where queries are distilled: what is searched with is
    turned away from the teacher's vector of these words, and the student has none of them."""
    if len(batch.avoided):
        raise DataError(
            f"of rows {', '.join(batch.ids[:5])} and more some avoid something, and a query encoder that is distilled "
            "reads no words alone; leave out the column `avoid`"
        )


def check_lexical_rows(batch: ContrastiveBatch) -> None:
    """Raise DataError for rows of which a query avoids something, from whose lexical vector nothing is taken."""
    if len(batch.avoided):
        raise DataError(
            f"of rows {', '.join(batch.ids[:5])} and more some avoid something, which lexical vectors cannot; leave "
            "the column `avoid` out, or lexical"
        )


def lexical_flops(terms: Sequence[Term], words: GatheredBatch) -> Tensor:
    """Return the FLOPS penalty of all that asks in some term, and of all that is a candidate in one, added."""
    asks = [use for term in terms for use in term.queries]
    found = [use for term in terms for use in (*term.positives, *term.hard_negatives)]
    return _flops_of(asks, words) + _flops_of(found, words)


def _flops_of(uses: Sequence[RoleUse], words: GatheredBatch) -> Tensor:
    places = torch.cat([words.places[use] for use in dict.fromkeys(uses)]).unique()
    return flops(words.vectors[places])


class ContrastiveTrainer(StageTrainer):
    """A Trainer of a BatchEncoder, with the terms of one stage over the rows of all processes."""

    stage: Stage
    guard: DivergenceGuard

    def __init__(
        self,
        *args: Any,
        stage: Stage,
        home: Path,
        banks: dict[str, Bank],
        known: KnownAnswers | None,
        guide_banks: dict[str, Tensor],
        judgements: Judgements | None,
        lexical: LexicalSection | None = None,
        codes: Codes | None = None,
        **kwargs: Any,
    ):
        """Set the stage beside what a StageTrainer takes.

        Args:
            stage: whose terms are trained.
            home: the stage's folder of checkpoints.
            banks: the candidates of terms, by the term's name.
            known: what is right for whom in all rows of the stage; None where the rows of a batch tell it.
            guide_banks: the guide's vectors [M, Dg] of the banks' candidates, by the term's name; none without one.
            judgements: of the stage's re-ranker; None without one.
            lexical: how the lexical vectors are trained that lie behind the dense ones; None without.
            codes: of the bank of the stage's term, where they are tuned; None where none are.
        """
        super().__init__(*args, stage=stage, home=home, guard=DivergenceGuard(stage, home), **kwargs)
        self.banks = {name: bank.to(self.args.device) for name, bank in banks.items()}
        self.guide_banks = {name: found.to(self.args.device) for name, found in guide_banks.items()}
        self.rule = GuideRule(stage.guide.margin, stage.guide.ceiling) if stage.guide else None
        self.known, self.judgements = known, judgements or Judgements.none().to(self.args.device)
        self.lexical, self.codes = lexical, codes
        self.judge_temperature = stage.judge.temperature if stage.judge else 1.0

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, a scalar. Raise the error that a worker handed on in a batch's place."""
        batch: ContrastiveBatch = self.taken(inputs)
        vectors, temperature, own = model(batch)
        options = LossOptions(temperature.to(vectors.device), self.stage.mask_margin, self.stage.hardness)
        gathered, words = self._apart(model, gather(vectors, batch, self.args.per_device_train_batch_size))
        own |= self._lexical(words, batch, options)
        losses = [(term, self._loss(term, gathered, batch, options)) for term in self.stage.terms]
        weighted = [term.weight * loss for term, loss in losses]
        total = sum((*weighted[1:], *own.values()), weighted[0])
        trained = torch.cat([places for use, places in gathered.places.items() if not use.frozen]).unique()
        cosine = mean_cosine(as_one(gathered.vectors[trained]))
        self.throughput.add_value("temperature", temperature)
        self.throughput.add_value("mean_cosine", cosine)
        self._add_own(own)
        if batch.guide is not None:
            self.throughput.add_value("unguided", batch.guide[:, 0].isnan().float().mean())
        self.guard.check_step(model, losses, total, cosine, gathered, batch)
        return (total, vectors) if return_outputs else total

    def _apart(self, model: Any, gathered: GatheredBatch) -> tuple[GatheredBatch, GatheredBatch | None]:
        """Return a batch of dense vectors, and where such are trained that of the lexical ones behind them."""
        if self.lexical is None:
            return gathered, None
        width: int = self.accelerator.unwrap_model(model).model.width
        dense, words = gathered.vectors[:, :width], gathered.vectors[:, width:]
        return replace(gathered, vectors=dense), replace(gathered, vectors=words)

    def _lexical(self, words: GatheredBatch | None, batch: ContrastiveBatch, options: LossOptions) -> dict[str, Tensor]:
        """Return the losses of lexical vectors, weighted: the terms' own on their cosines, and the FLOPS penalty."""
        if words is None or self.lexical is None:
            return {}
        check_lexical_rows(batch)
        losses = []
        for term in self.stage.terms:
            output = term_loss(term, words, options, self.rule, self._right_for(term, words, batch))
            losses.append(term.weight * output.loss)
            self.throughput.add_value(f"lexical_accuracy/{term.name}", output.accuracy)
        penalty = lexical_flops(self.stage.terms, words)
        share = share_of_penalty(self.state.global_step, self.parts[0])
        self.throughput.add_value("flops", penalty)
        return {
            "lexical": self.lexical.weight * torch.stack(losses).sum(),
            "flops": self.lexical.flops * share * penalty,
        }

    def _add_own(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.throughput.add_value(f"loss/{name}", loss)

    def _loss(self, term: Term, gathered: GatheredBatch, batch: ContrastiveBatch, options: LossOptions) -> Tensor:
        """Return the loss of one term, the mean over the stage's nested dimensions."""
        whole_dim = gathered.vectors.shape[-1]
        losses = []
        for dim, vectors in nested(gathered.vectors, self.stage.matryoshka).items():
            cut = replace(gathered, vectors=vectors)
            if term.uses_bank:
                output = self._bank_loss(term, cut, batch, options)
            elif term.judged:
                output = self._judged_loss(term, cut, options)
            else:
                output = term_loss(term, cut, options, self.rule, self._right_for(term, cut, batch))
            losses.append(output.loss)
            self._add_figures(term, "" if dim == whole_dim else f"@{dim}", output)
        mean = torch.stack(losses).mean()
        self.throughput.add_value(f"loss/{term.name}", mean)
        if not term.uses_bank:
            targets = torch.cat([gathered.places[use] for use in term.positives])
            repeated = mean.new_tensor(1 - len(targets.unique()) / len(targets))
            self.throughput.add_value(f"repeated/{term.name}", repeated)
        return mean

    def _bank_loss(
        self, term: Term, gathered: GatheredBatch, batch: ContrastiveBatch, options: LossOptions
    ) -> LossOutput:
        vectors = gathered.vectors
        bank = self.banks[term.name].cut(vectors.shape[1])
        # the candidates are no vectors of the batch, so a process needs nothing but its own queries
        queries = vectors[gathered.places[term.queries[0]][gathered.local_rows]]
        asks, answers = (batch.keys[role].to(vectors.device) for role in (term.query[0], term.positive[0]))
        rows = bank.rows(answers)
        if term.taught:
            check_taught_rows(batch)
            return distil(queries, bank.teacher_vectors(asks), bank.vectors, rows, options.temperature)
        right = self._right_for(term, gathered, batch) or (asks, answers)
        if self.codes is not None:
            ignored = right_answers(asks, *right, bank.inputs)
            found = self._code_loss(self.codes, queries, rows, ignored, options)
            share = left_out(ignored, asks, bank.inputs[rows], bank.inputs)
            return found._replace(left_out=share.to(found.loss.dtype))
        guided, spared = self._guided_bank(term, gathered, batch, rows)
        return contrast_bank(queries, asks, bank.vectors, bank.inputs, rows, right, options, guided, spared)

    def _code_loss(
        self, codes: Codes, queries: Tensor, rows: Tensor, ignored: Ignored, options: LossOptions
    ) -> LossOutput:
        encoder: Any = self.accelerator.unwrap_model(self.model)
        keys = self.stage.jpq
        count = keys.negatives if keys else 0
        return jpq(queries, codes, encoder.centroids, rows, ignored, options.temperature, count)

    def _judged_loss(self, term: Term, gathered: GatheredBatch, options: LossOptions) -> LossOutput:
        lists, scores = judged_lists(term, gathered, self.judgements)
        unjudged = scores.isnan() & (lists >= 0)
        self.throughput.add_value(f"unjudged/{term.name}", unjudged.sum() / (lists >= 0).sum())
        queries = gathered.vectors[gathered.places[term.queries[0]][gathered.local_rows]]
        return judged(queries, gathered.vectors, lists, scores, options.temperature, self.judge_temperature)

    def _guided_bank(
        self, term: Term, gathered: GatheredBatch, batch: ContrastiveBatch, positives: Tensor
    ) -> tuple[Guided | None, Pairs | None]:
        """Return what the guide says of this process's queries and a bank, and the pairs that it does not concern."""
        if self.rule is None or gathered.guide is None:
            return None, None
        asking = gathered.guide[gathered.guide_places[term.queries[0]][gathered.local_rows]]
        candidates, bank = self.guide_banks[term.name], self.banks[term.name]
        keys = [batch.keys[role].to(asking.device) for role in term.fixed_negatives]
        found = [bank.found(own) for own in keys]
        none = positives[:0], positives[:0]
        rows, columns = (torch.cat(side) for side in zip(none, *found, strict=True))
        return Guided.of(asking, candidates, candidates[positives], self.rule), Pairs(rows, columns)

    def _right_for(self, term: Term, gathered: GatheredBatch, batch: ContrastiveBatch) -> tuple[Tensor, Tensor] | None:
        """Return by keys, [P] and [P] int64, what asks in this process's rows and all that is right for it; None where
        the roles of a batch's rows tell it."""
        asked, answers = (gathered.keys.get(name, gathered.inputs[:0]) for name in (ASKED, RIGHT))
        if self.known is None:
            return (asked, answers) if len(asked) else None
        asking = {*term.query, *(term.positive if term.symmetric else ())}
        keys = torch.cat([batch.keys[role] for role in sorted(asking)])
        known = (torch.from_numpy(part).to(self.args.device) for part in self.known.of(keys.cpu().numpy()))
        # what the rows tell stands among it, but for sources that were not looked at
        asked, answers = (torch.cat(parts) for parts in zip(known, (asked, answers), strict=True))
        return asked, answers

    def _add_figures(self, term: Term, cut: str, output: LossOutput) -> None:
        names = ["accuracy"] if cut else ["accuracy", "positive", "hardest", "negatives", "left_out"]
        if not cut and self.stage.mask_margin is not None:
            names.append("masked")
        if not cut and self.stage.guide is not None:
            names.append("guided")
        figures = output._asdict()
        for name in names:
            self.throughput.add_value(f"{name}/{term.name}{cut}", figures[name])
