"""The inputs of a re-ranker's step: prompts of a query with a candidate each, and of a query with a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from mllm_embed.errors import TooLongError
from mllm_embed.inputs.pairs.pair_processor import PairProcessor
from mllm_embed.inputs.pairs.prompt import ListPrompt, RerankPrompt
from mllm_embed.types import Item

from ..data import TrainingRow
from ..recipe.reranker.stage import RerankStage
from ..recipe.reranker.term import PAIRED
from .inputs import InputMaker, MicroBatch, counted
from .samples import blank_for, blanked, inputs_of, longest_inputs, pictures_of, shown_and_said

Asked = tuple[Item, Sequence[Item]]
"""A query with candidates."""


@dataclass(frozen=True)
class PairMaker:
    """What a re-ranker gets of a stage's rows.

    Args:
        inputs: how its model gets pictures and words.
        prompt: how it is asked.
    """

    inputs: InputMaker
    prompt: RerankPrompt

    def micro_batches(
        self, stage: RerankStage, rows: list[TrainingRow] | None, size: tuple[int, int] | None
    ) -> list[MicroBatch]:
        """Return the micro-batches of one step, every prompt whole and as long as the longest.

        Args:
            stage: of a recipe.
            rows: the stage's, where its data is on disk.
            size: the pictures' width and height, as of `longest_inputs`.

        Raises DataError for what cannot be asked, as a step does.
        """
        brought = self._brought(stage, rows, size) if rows else self._example(stage, size)
        count = min(stage.candidates, max(len(candidates) for _, candidates in brought))
        batches = []
        if PAIRED & stage.weights.keys():
            pairs = [(query, [one]) for query, candidates in brought for one in candidates]
            batch = self._longest(pairs, None, "with a candidate")
            batches.append(replace(batch, count=stage.batch_size * count))
        if "listwise" in stage.weights:
            lists = [(query, sorted(candidates, key=shown_and_said)[-count:]) for query, candidates in brought]
            batch = self._longest(lists, self.prompt.list, f"with {count} candidates")
            batches.append(replace(batch, count=stage.batch_size))
        return batches

    def _example(self, stage: RerankStage, size: tuple[int, int] | None) -> list[Asked]:
        """Return what stands for rows that are not there: what is mined is of the kind that is looked for."""
        found = longest_inputs(stage, stage.roles, None, size, self.inputs.settings.jpeg_side)
        samples = {role: item for role, (item,) in found.items()}
        mined = stage.hard_negatives or stage.candidates if "hard_negative" in stage.negatives else 0
        others = [samples[role] for role in stage.negatives if role != "hard_negative"]
        return [(samples[stage.query], [*others, *[samples[stage.positive]] * (1 + mined)])]

    def _brought(self, stage: RerankStage, rows: list[TrainingRow], size: tuple[int, int] | None) -> list[Asked]:
        """Return the query and all candidates of each row, with blank pictures in place of its own."""
        lists = [(row.roles[stage.query], _candidates(stage, row)) for row in rows]
        shown = chain.from_iterable((query, *candidates) for query, candidates in lists)
        blank = blank_for(list(shown), size, self.inputs.settings.jpeg_side)
        put = partial(blanked, blank=blank)
        return [(put(query), list(map(put, candidates))) for query, candidates in lists]

    def _longest(self, lists: Sequence[Asked], form: ListPrompt | None, called: str) -> MicroBatch:
        """Return the micro-batch of the longest prompt, `called` so; of one over the limit, at which a run stops, the
        longest that is not."""
        asked = max(lists, key=lambda one: self._estimated(one, form).length)
        batch, items = self._estimated(asked, form), self.inputs.item_processor
        limit, over = self.inputs.settings.max_tokens, False
        if items:
            pairs, (query, candidates), limit = PairProcessor(items, self.prompt), asked, items.lengths.limit.tokens
            try:
                made = pairs.list_batch([asked]) if form else pairs.batch([(query, candidates[0])])
                batch = counted(query.role, made, items, self.inputs.config)
            except TooLongError:
                over = True
        kind = f"{batch.kind} {called}"
        if limit is None or not (over or batch.length > limit):
            return replace(batch, kind=kind)
        if over:
            kind += f", one over the limit of {limit:,} tokens, at which a run stops"
        return replace(batch, kind=kind, length=limit, image_tokens=min(batch.image_tokens, limit))

    def _estimated(self, asked: Asked, form: ListPrompt | None) -> MicroBatch:
        """Return the micro-batch of one prompt from the config."""
        prompt, (query, candidates) = self.prompt, asked
        said = prompt.said(query)
        words = (form.words, form.append, *[form.candidate] * len(candidates)) if form else (prompt.words,)
        around = (prompt.query_form(said.role), prompt.system, prompt.append, prompt.task_of(query))
        forms = [getattr(prompt, one.role) for one in candidates]
        given = [text for one in (said, *candidates) for text in {one.text, one.words} if text is not None]
        shown = [picture for one in (query, *candidates) for picture in pictures_of(one)]
        return self.inputs.estimate(query.role, (*words, *around, *forms, *given), shown)


def _candidates(stage: RerankStage, row: TrainingRow) -> list[Item]:
    """Return all that a row brings to be judged."""
    return list(chain.from_iterable(inputs_of(row, role, stage.hard_negatives) for role in stage.roles[1:]))
