"""What a person should know about a stage: what its terms compare, and what its rows or its figures give away.

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
from ..recipe.config import Stage, Term
from ..report.run_log import JsonLog

REPEATED = 0.1  # share of a batch's targets that are another row's target too
_AT_BOUND = 0.02  # of the way between the two bounds


class Advice(TrainerCallback):
    """Prints what the terms compare when a stage starts, and warns, each thing once a stage."""

    def __init__(self, stage: Stage, rows: Sequence[TrainingRow], banks: Mapping[str, Bank], log: JsonLog):
        self.stage, self.rows, self.banks, self.json_log = stage, rows, banks, log

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            for term in self.stage.terms:
                tqdm.write(f"{self.json_log.stage}  {compared(term, self.stage, self.rows, self.banks)}")
            self._warn(state.global_step, unused(self.stage, self.rows))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self._warn(state.global_step, noticed(self.stage, logs))

    def _warn(self, step: int, found: Mapping[str, str]) -> None:
        for about, sentence in found.items():
            self.json_log.warn(step, about, sentence)


def compared(term: Term, stage: Stage, rows: Sequence[TrainingRow], banks: Mapping[str, Bank]) -> str:
    """One line: the candidates of a term, and how many negatives a query sees at most."""
    arrow = "<->" if term.symmetric else "->"
    title = f"{' + '.join(term.query)} {arrow} {' + '.join(term.positive)}"
    count = len(banks[term.name].vectors) if term.kept else 0
    if term.taught:
        return f"{title}: by the teacher's vector of each query, and its cosines to {count:,} candidates from all rows"
    if term.bank:
        return f"{title}: candidates are {count:,} from all rows, at most {count - 1:,} negatives a query"
    batch, times = stage.batch_size, len(term.query)
    brought = {role: batch * (_most_hard(stage, rows) if role == "hard_negative" else 1) for role in term.negatives}
    beside = {f"the other {batch * times - 1:,} queries": batch * times - 1} if term.same_side else {}
    parts = [f"{batch:,} {role}" for role in term.positive] + [f"{count:,} {role}" for role, count in brought.items()]
    most = batch * times - 1 + sum(brought.values()) + sum(beside.values())
    frozen = ", by the model without adapter" if term.frozen else ""
    return f"{title}: candidates are {', '.join([*parts, *beside])}{frozen}, at most {most:,} negatives a query"


def _most_hard(stage: Stage, rows: Sequence[TrainingRow]) -> int:
    most = max((len(row.hard_negatives) for row in rows), default=0)
    return min(most, stage.hard_negatives or most)


def unused(stage: Stage, rows: Sequence[TrainingRow]) -> dict[str, str]:
    """By role, a sentence for what rows bring against wrong answers and no term uses; a taught stage needs none."""
    if any(term.taught for term in stage.terms):
        return {}
    roles = {role for term in stage.terms for role in (*term.query, *term.positive, *term.negatives)}
    found = {
        "hard_negative": sum(bool(row.hard_negatives) for row in rows),
        "negative_text": sum("negative_text" in row.roles for row in rows),
        "source_text": 0 if "composed_text" in roles else sum("source_text" in row.roles for row in rows),
    }
    return {
        f"unused/{role}": f"{count:,} of {len(rows):,} rows have a {role} that no term uses; list it in a term's "
        "negatives to train on it"
        for role, count in found.items()
        if count and role not in roles
    }


def noticed(stage: Stage, figures: Mapping[str, float]) -> dict[str, str]:
    """By figure, a sentence for every weakness that a logged step shows."""
    told = {}
    for name in dict.fromkeys(term.name for term in stage.terms):
        if figures.get(f"negatives/{name}") == 0:
            told[f"negatives/{name}"] = (
                f"term {name} saw no negative, so its loss teaches nothing; add rows with other targets"
            )
        if figures.get(f"repeated/{name}", 0) > REPEATED:
            told[f"repeated/{name}"] = (
                f"term {name}: {figures[f'repeated/{name}']:.0%} of the targets of a batch repeat another row's, so "
                f"its queries see fewer negatives than batch_size {stage.batch_size} says; mix the rows more"
            )
    if stage.learn_temperature and "temperature" in figures:
        low, high = stage.learn_temperature
        way = log(figures["temperature"] / low) / log(high / low) if figures["temperature"] > 0 else 0.0
        if not _AT_BOUND < way < 1 - _AT_BOUND:
            told["temperature"] = (
                f"the learned temperature sits at its bound ({low if way < 0.5 else high:g} of {low:g} to {high:g}); "
                "widen learn_temperature, or fix it"
            )
    return told
