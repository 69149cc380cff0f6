"""The inputs of a re-ranker's step: prompts of a query with a candidate each, and of a query with a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mllm_embed.errors import DataError
from mllm_embed.inputs.pairs.pair_processor import PairProcessor
from mllm_embed.inputs.pairs.prompt import ListPrompt, RerankPrompt
from mllm_embed.types import Item

from ..data import TrainingRow
from ..recipe.reranker.stage import RerankStage
from .inputs import InputMaker, MicroBatch, counted
from .samples import inputs_of, longest_inputs, pictures_of

PAIRED = {"pointwise", "softmax"}
"""The forms of a term that read a query with one candidate."""


@dataclass(frozen=True)
class PairMaker:
    """What a re-ranker gets of a stage's rows.

    Args:
        items: how the model gets pictures and words.
        prompt: how it is asked.
    """

    items: InputMaker
    prompt: RerankPrompt

    def micro_batches(
        self, stage: RerankStage, rows: list[TrainingRow] | None, size: tuple[int, int] | None
    ) -> list[MicroBatch]:
        """Return the micro-batches of one step at their largest, every prompt whole and as long as the longest.

        Args:
            stage: of a recipe.
            rows: the stage's, where its data is on disk.
            size: the pictures' width and height, as of `longest_inputs`.

        Raises DataError for a task that the prompt has no place for.
        """
        samples = longest_inputs(stage, stage.roles, rows, size, self.items.settings.jpeg_side)
        if rows is None and "hard_negative" in samples:  # what is mined is of the kind that is looked for
            samples["hard_negative"] = samples[stage.positive]
        query, *candidates = (samples[role] for role in stage.roles)
        count = _candidates(stage, rows)
        batches = []
        if PAIRED & stage.weights.keys():
            longest = self._longest(query, [[one] for one in candidates], None)
            batches.append(replace(longest, kind=f"{query.role} with a candidate", count=stage.batch_size * count))
        if "listwise" in stage.weights:
            longest = self._longest(query, [[one] * count for one in candidates], self.prompt.list)
            batches.append(replace(longest, kind=f"{query.role} with {count} candidates", count=stage.batch_size))
        return batches

    def _longest(self, query: Item, lists: Sequence[Sequence[Item]], form: ListPrompt | None) -> MicroBatch:
        """Return the most that one of several prompts takes, in each respect."""
        made = [self._one(query, candidates, form) for candidates in lists]
        longest = max(made, key=lambda batch: batch.length)
        most = {name: max(getattr(batch, name) for batch in made) for name in ("features", "patches", "pixels")}
        return replace(longest, **most)

    def _one(self, query: Item, candidates: Sequence[Item], form: ListPrompt | None) -> MicroBatch:
        """Return the micro-batch of one prompt; of one that is too long, which is not trained on, the longest that
        is."""
        items = self.items.item_processor
        if items is None:
            return self._estimated(query, candidates, form)
        pairs = PairProcessor(items, self.prompt)
        try:
            batch = pairs.list_batch([(query, candidates)]) if form else pairs.batch([(query, candidates[0])])
        except DataError:
            self.prompt.task_of(query)  # which may be the cause, and is to be told
            whole = self._estimated(query, candidates, form)
            return replace(whole, length=min(whole.length, items.lengths.limit.tokens or whole.length))
        return counted(query.role, batch, items, self.items.config)

    def _estimated(self, query: Item, candidates: Sequence[Item], form: ListPrompt | None) -> MicroBatch:
        """Return the micro-batch of one prompt from the config."""
        prompt, said = self.prompt, self.prompt.said(query)
        words = (form.words, form.append, *[form.candidate] * len(candidates)) if form else (prompt.words,)
        asked = (prompt.query_form(said.role), prompt.system, prompt.append, prompt.task_of(query))
        forms = [getattr(prompt, one.role) for one in candidates]
        given = [text for one in (said, *candidates) for text in {one.text, one.words} if text is not None]
        shown = [picture for one in (query, *candidates) for picture in pictures_of(one)]
        return self.items.estimate(query.role, (*words, *asked, *forms, *given), shown)


def _candidates(stage: RerankStage, rows: list[TrainingRow] | None) -> int:
    """Return how many candidates a row has at most."""
    if rows is None:
        return stage.candidates
    brought = max(sum(len(inputs_of(row, role, stage.hard_negatives)) for role in stage.negatives) for row in rows)
    return min(stage.candidates, 1 + brought)
