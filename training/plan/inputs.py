"""The inputs of a stage's step: for each kind how many, how long, with how many patches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mllm_embed.encode.model_source import ModelSource, item_processor
from mllm_embed.errors import DataError, ModelError
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.resize import with_picture_settings
from mllm_embed.model.families import family_of
from mllm_embed.model.heads.picture_places import RUNS
from mllm_embed.model.picture_layout import PictureLayout
from mllm_embed.saving.settings import Settings
from mllm_embed.thoughts.writer import ThoughtWriter
from mllm_embed.types import Item

from ..data import TrainingRow
from ..recipe.pixels import picture_settings
from ..recipe.run_keys import RunKeys
from ..recipe.stage import Stage
from .samples import (
    inputs_of,
    longest_avoided,
    longest_inputs,
    picture_area,
    pictures_of,
    shown_and_said,
    with_pictures,
    word_length,
)

CHARACTERS = 3  # a token, at least, in English; for a model whose tokenizer is not at hand
MARKUP = 16  # tokens of a chat template, for the same


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one kind in a step.

    Args:
        kind: what they are: the role of a prompt, or of a query with what a re-ranker reads beside it.
        count: how many inputs.
        length: tokens of one.
        image_tokens: how many of these stand for pictures.
        features: how many tokens the projector makes of these: more, where a token learner makes few of them.
        patches, pixels: of one input; pixels are numbers, all channels.
        frozen: whether they go through the model without its adapter, after the others and without gradient.
    """

    kind: str
    count: int
    length: int
    image_tokens: int = 0
    features: int = 0
    patches: int = 0
    pixels: int = 0
    frozen: bool = False


@dataclass(frozen=True)
class InputMaker:
    """What a model gets of a stage's rows, in the form in which it is trained.

    Args:
        config: its transformers config.
        settings: its prompts, and what else of inputs is set.
        pictures: how it cuts pictures.
        item_processor: its own, where its processor is at hand; else tokens are estimated from the config.
    """

    config: Any
    settings: Settings
    pictures: PictureLayout
    item_processor: ItemProcessor | None

    @classmethod
    def of(cls, config: Any, source: ModelSource, settings: Settings, recipe: RunKeys) -> InputMaker:
        """Return what makes a model's inputs; of a source on this disk by its own processor. Raises ConfigError for
        limits of the recipe that the model's pictures cannot have."""
        layout = family_of(config).pictures
        processor = _processor(source)
        given = dict(source.preset.image_processor) if source.preset else {}
        given |= picture_settings(recipe, config, processor.image_processor.to_dict() if processor else given)
        pictures = replace(layout, settings=given) if given else layout
        if processor and given:
            processor = with_picture_settings(processor, given)
        # a longer row is not trained on: what is left of it is the most that memory must hold
        cut = replace(settings, truncate=True)
        return cls(config, settings, pictures, processor and item_processor(processor, cut, config))

    def micro_batches(
        self, stage: Stage, rows: list[TrainingRow] | None, size: tuple[int, int] | None
    ) -> list[MicroBatch]:
        """Return the micro-batches of one step, in the collator's order, at their largest: all inputs distinct, words
        the longest. Of a role that has texts and pictures all are pictures, as long as the longest text.

        Args:
            stage: of a recipe.
            rows: the stage's, where its data is on disk.
            size: the pictures' width and height; None for the largest found among the rows, else STANDARD_PICTURE.

        Raises DataError for a task that the prompts have no place for.
        """
        found = longest_inputs(stage, stage.encoded, rows, size, self.settings.jpeg_side, stage.mined_roles[1:])
        samples = {role: max(items, key=shown_and_said) for role, items in found.items()}
        counts: dict[tuple[bool, str], int] = {}
        lengths: dict[tuple[bool, str], int] = {}
        for use in sorted(stage.uses, key=lambda use: use.frozen):
            group = use.frozen, samples[use.role].role
            counts[group] = counts.get(group, 0) + stage.batch_size * _inputs_a_row(stage, rows, use.role)
            others = [self._one(item).length for item in found[use.role] if item is not samples[use.role]]
            lengths[group] = max([lengths.get(group, 0), *others])
            avoided = longest_avoided(rows, use.role)
            if avoided:
                group = use.frozen, avoided.role
                counts[group] = counts.get(group, 0) + stage.batch_size
                samples[f"what {use.role} avoids"] = avoided
        batches = []
        for (frozen, kind), count in counts.items():
            alike = [sample for sample in samples.values() if sample.role == kind]
            batch = self._one(with_pictures(max(alike, key=word_length), max(alike, key=picture_area)))
            length = max(batch.length, lengths.get((frozen, kind), 0))
            batches.append(replace(batch, count=count, length=length, frozen=frozen))
        return batches

    def _one(self, item: Item) -> MicroBatch:
        self.settings.prompts.task(item)  # what has no place is told before anything is made of it
        if self.item_processor is None:
            batch = self._estimated(item)
        else:
            batch = _processed(self.item_processor, self.config, item)
        return replace(batch, length=batch.length + self._thought(item))

    def _thought(self, item: Item) -> int:
        """Return how many tokens an item's thought takes at most, with what follows it."""
        thoughts = self.settings.thoughts
        if thoughts is None or item.side != "query" or item.role != "composed":
            return 0
        if self.item_processor:
            return ThoughtWriter(self.item_processor, thoughts).room(item)
        return thoughts.tokens + 1 + math.ceil(len(thoughts.then) / CHARACTERS)

    def _estimated(self, item: Item) -> MicroBatch:
        """Return the micro-batch of `item` alone from the config."""
        prompts = self.settings.prompts
        prompt = prompts.prompt(prompts.slot(item))
        words = {text for text in (item.text, item.words) if text is not None}  # one and the same in a Document
        asked = (prompt.words, prompt.system, prompt.append, prompts.task(item))
        return self.estimate(item.role, (*asked, *words), pictures_of(item))

    def estimate(self, kind: str, written: Iterable[str], pictures: Sequence[Image.Image]) -> MicroBatch:
        """Return the micro-batch of one input from the config, by what is written in it, and its pictures."""
        length = math.ceil(sum(map(len, written)) / CHARACTERS) + MARKUP
        costs = [self.pictures.cost(self.config, *self._shown(picture.size)) for picture in pictures]
        features = sum(cost.tokens for cost in costs)
        tokens = features if self.settings.picture_tokens is None else self.settings.picture_tokens * len(costs)
        patches, pixels = sum(cost.patches for cost in costs), sum(cost.pixels for cost in costs)
        return MicroBatch(kind, 1, length + tokens, tokens, features, patches, pixels)

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size at which a picture comes to the model's image processor."""
        return self.settings.resize.size(*size) if self.settings.resize else size


def _processor(source: ModelSource) -> Any:
    """Return the model's processor where it is on this disk, else None."""
    try:
        return source.own_processor() if Path(source.base).is_dir() else None
    except ModelError:
        return None  # a folder with a config alone


def _inputs_a_row(stage: Stage, rows: list[TrainingRow] | None, role: str) -> int:
    """Return how many inputs of a role a row has at most."""
    if role == "hard_negative" and stage.mine:
        own = max((len(row.hard_negatives) for row in rows or ()), default=0)
        return min(own + stage.mine.count, stage.hard_negatives or own + stage.mine.count)
    if rows is None:
        return stage.hard_negatives or 1 if role == "hard_negative" else 1
    return max(len(inputs_of(row, role, stage.hard_negatives)) for row in rows)


def _processed(item_processor: ItemProcessor, config: Any, item: Item) -> MicroBatch:
    """Return a micro-batch of `item` alone, as the processor makes it."""
    item = item_processor.lengths.bounded(item)
    try:
        batch = item_processor([item])
    except DataError:  # too long, or none that this model can take
        batch = item_processor([item_processor.prepared(item)[0]])
    return counted(item.role, batch, item_processor, config)


def counted(kind: str, batch: Mapping[str, Any], item_processor: ItemProcessor, config: Any) -> MicroBatch:
    """Return the micro-batch of the one input of a processor's batch."""
    ids, pixels = batch["input_ids"], batch.get("pixel_values")
    if pixels is None:
        return MicroBatch(kind, 1, ids.shape[1])
    patches = pixels.numel() // item_processor.family.pictures.pixels_a_patch(config.vision_config)
    tokens = int(torch.isin(ids, torch.tensor(item_processor.processor.image_token_ids)).sum())
    features = int(batch[RUNS].sum()) if RUNS in batch else tokens
    return MicroBatch(kind, 1, ids.shape[1], tokens, features, patches, pixels.numel())
