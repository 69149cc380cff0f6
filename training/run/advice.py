"""Advice on a stage: what its terms compare, and the weaknesses that its rows or its figures show.

Hard negatives that no loss reads, and batches that hold fewer negatives than they seem to, cost quality without a sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from ..data import TrainingRow
from ..distill.bank import Bank
from ..recipe.stage import Stage
from ..recipe.stage_keys.terms import Term
from ..report.run_log import JsonLog

REPEATED = 0.1  # share of a batch's targets that are another row's target too
_AT_BOUND = 0.02  # of the way between the two bounds
_AGAINST = ("hard_negative", "negative_text", "source_text")  # roles that rows bring as wrong answers


class Advice(TrainerCallback):
    """Advice on a stage: what the terms compare, when it starts, and warnings of weaknesses, of each once."""

    def __init__(self, stage: Stage, rows: Sequence[TrainingRow], banks: Mapping[str, Bank], log: JsonLog):
        """Look at a stage, a sample of its rows, and the banks of its terms by name; warnings go to `log` too."""
        self.stage, self.rows, self.banks, self.json_log = stage, rows, banks, log

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print what the terms compare, and warn of what rows bring in vain."""
        if state.is_world_process_zero:
            for term in self.stage.terms:
                tqdm.write(f"{self.json_log.stage}  {candidates_in_words(term, self.stage, self.rows, self.banks)}")
            self._warn(state.global_step, unused_roles(self.stage, self.rows))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Warn of what a line's figures show."""
        if state.is_world_process_zero and logs:
            self._warn(state.global_step, weaknesses(self.stage, logs))

    def _warn(self, step: int, sentences: Mapping[str, str]) -> None:
        for about, sentence in sentences.items():
            self.json_log.warn(step, about, sentence)


def candidates_in_words(term: Term, stage: Stage, rows: Sequence[TrainingRow], banks: Mapping[str, Bank]) -> str:
    """Return one line: the candidates of a term, and how many negatives a query sees at most."""
    arrow = "<->" if term.symmetric else "->"
    title = f"{' + '.join(term.query)} {arrow} {' + '.join(term.positive)}"
    if term.uses_bank:
        return f"{title}: {_bank_in_words(term, len(banks[term.name].vectors), stage)}"
    if term.judged:
        most = _most("hard_negative", stage, rows)
        return f"{title}: by what the judge says of each row's positive and its hard negatives, at most {most}"
    return f"{title}: {_batch_in_words(term, stage, rows)}"


def _batch_in_words(term: Term, stage: Stage, rows: Sequence[TrainingRow]) -> str:
    batch, times = stage.batch_size, len(term.query)
    brought = {role: batch * _most(role, stage, rows) for role in term.negatives}
    beside = batch * times - 1 if term.same_side else 0
    counts = [*((role, batch) for role in term.positive), *brought.items()]
    parts = [f"{count:,} {role}" for role, count in counts]
    if beside:
        parts.append(f"the other {beside:,} queries")
    most = batch * times - 1 + sum(brought.values()) + beside
    frozen = ", by the model without adapter" if term.frozen else ""
    return f"candidates are {', '.join(parts)}{frozen}, at most {most:,} negatives a query"


def _bank_in_words(term: Term, count: int, stage: Stage) -> str:
    if stage.jpq:
        nearest = f"{min(stage.jpq.negatives, count):,} nearest of {count:,} from all rows"
        return f"candidates are the {nearest}, by codes of {stage.jpq.bytes} bytes"
    if term.taught:
        return f"by the teacher's vector of each query, and its cosines to {count:,} candidates from all rows"
    return f"candidates are {count:,} from all rows, at most {count - 1:,} negatives a query"


def _most(role: str, stage: Stage, rows: Sequence[TrainingRow]) -> int:
    """Return how many inputs of a role a row brings at most."""
    if role != "hard_negative":
        return 1
    most = max((len(row.hard_negatives) for row in rows), default=0)
    return min(most, stage.hard_negatives or most)


def unused_roles(stage: Stage, rows: Sequence[TrainingRow]) -> dict[str, str]:
    """Return by role a sentence for what rows bring against wrong answers and no term uses."""
    if any(term.taught for term in stage.terms):
        return {}  # a teacher's vectors say all that negatives could
    used = set(stage.roles)
    if "composed_text" in used:
        used.add("source_text")  # which is a part of that query
    sentences = {}
    for role in _AGAINST:
        if role in used:
            continue
        count = sum(_brings(row, role) for row in rows)
        if count:
            sentences[f"unused/{role}"] = (
                f"{count:,} of {len(rows):,} rows have a {role} that no term uses; list it in a term's negatives to "
                "train on it"
            )
    return sentences


def _brings(row: TrainingRow, role: str) -> bool:
    return bool(row.hard_negatives) if role == "hard_negative" else role in row.roles


def weaknesses(stage: Stage, figures: Mapping[str, float]) -> dict[str, str]:
    """Return by figure a sentence for every weakness that a logged step shows."""
    sentences = {}
    for name in dict.fromkeys(term.name for term in stage.terms):
        if figures.get(f"negatives/{name}") == 0:
            sentences[f"negatives/{name}"] = (
                f"term {name} saw no negative, so its loss teaches nothing; {_more_negatives(stage)}"
            )
        if figures.get(f"repeated/{name}", 0) > REPEATED:
            sentences[f"repeated/{name}"] = (
                f"term {name}: {figures[f'repeated/{name}']:.0%} of the targets of a batch repeat another row's, so "
                f"its queries see fewer negatives than batch_size {stage.batch_size} says; {_other_targets(stage)}"
            )
    if stage.learn_temperature and "temperature" in figures:
        low, high = stage.learn_temperature
        sentences |= _at_bound(figures["temperature"], low, high)
    return sentences


def _more_negatives(stage: Stage) -> str:
    """Return what would give a term negatives that sees none."""
    masks = [f"{name} leave out less" for name in ("guide", "mask_margin") if getattr(stage, name) is not None]
    return " or ".join([*(f"let {mask}" for mask in masks), "add rows with other targets"])


def _other_targets(stage: Stage) -> str:
    """Return what would bring more different targets into a batch, as its order is."""
    keeping = [name for name in ("per_image", "per_cluster", "per_source") if getattr(stage, name) > 1]
    if keeping:
        return f"lower {' or '.join(keeping)}, which keeps like rows together"
    if stage.streaming:
        return "a stream keeps the order of its shards nearly: shuffle the rows as the shards are written"
    return "its rows have few different ones: add rows with others, or lower batch_size"


def _at_bound(temperature: float, low: float, high: float) -> dict[str, str]:
    way = log(temperature / low) / log(high / low) if temperature > 0 else 0.0
    if _AT_BOUND < way < 1 - _AT_BOUND:
        return {}
    sentence = (
        f"the learned temperature sits at its bound ({low if way < 0.5 else high:g} of {low:g} to {high:g}); "
        "widen learn_temperature, or fix it"
    )
    return {"temperature": sentence}
