"""The inputs of a stage's step: for each kind how many, how long, with how many patches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mllm_embed.encode.avoiding import words_to_avoid
from mllm_embed.encode.model_source import ModelSource, item_processor
from mllm_embed.errors import DataError, ImageError, ModelError
from mllm_embed.inputs.images import load_image
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.resize import with_picture_settings
from mllm_embed.model.families import family_of
from mllm_embed.model.heads.picture_places import RUNS
from mllm_embed.model.picture_layout import PictureLayout
from mllm_embed.saving.settings import Settings
from mllm_embed.thoughts.writer import ThoughtWriter
from mllm_embed.types import Document, Item, Query

from ..data import TrainingRow
from ..data.roles import PICTURE_ROLES
from ..recipe.config import Recipe
from ..recipe.pixels import picture_settings
from ..recipe.stage import Stage

# What stands for a data set that is not on disk: its words are about as long as a long caption of COCO, its pictures
# have COCO's usual size.
WORDS = "a man in a red jacket rides a brown horse along the beach while two dogs run behind him at sunset"
STANDARD_PICTURE = (640, 480)
SAMPLE = 32  # pictures of a data set whose size is looked at
CHARACTERS = 3  # a token, at least, in English; for a model whose tokenizer is not at hand
MARKUP = 16  # tokens of a chat template, for the same


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one kind in a step.

    Args:
        kind: the role of a prompt.
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
    def of(cls, config: Any, source: ModelSource, settings: Settings, recipe: Recipe) -> InputMaker:
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
        the longest.

        Args:
            stage: of a recipe.
            rows: the stage's, where its data is on disk.
            size: the pictures' width and height; None for the largest found among the rows, else STANDARD_PICTURE.

        Raises DataError for a task that the prompts have no place for.
        """
        samples = _samples(stage, rows, size, self.settings.jpeg_side)
        counts: dict[tuple[bool, str], int] = {}
        for use in sorted(stage.uses, key=lambda use: use.frozen):
            group = use.frozen, samples[use.role].role
            counts[group] = counts.get(group, 0) + stage.batch_size * _inputs_a_row(stage, rows, use.role)
            avoided = _avoided(rows, use.role)
            if avoided:
                group = use.frozen, avoided.role
                counts[group] = counts.get(group, 0) + stage.batch_size
                samples[f"what {use.role} avoids"] = avoided
        batches = []
        for (frozen, kind), count in counts.items():
            alike = [sample for sample in samples.values() if sample.role == kind]
            longest = _with_pictures(max(alike, key=_characters), max(alike, key=_pixels))
            batches.append(replace(self._one(longest), count=count, frozen=frozen))
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
        length = math.ceil(sum(map(len, (*asked, *words))) / CHARACTERS) + MARKUP
        costs = [self.pictures.cost(self.config, *self._shown(picture.size)) for picture in _pictures(item)]
        features = sum(cost.tokens for cost in costs)
        tokens = features if self.settings.picture_tokens is None else self.settings.picture_tokens * len(costs)
        patches, pixels = sum(cost.patches for cost in costs), sum(cost.pixels for cost in costs)
        return MicroBatch(item.role, 1, length + tokens, tokens, features, patches, pixels)

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size at which a picture comes to the model's image processor."""
        return self.settings.resize.size(*size) if self.settings.resize else size


def _processor(source: ModelSource) -> Any:
    """Return the model's processor where it is on this disk, else None."""
    try:
        return source.own_processor() if Path(source.base).is_dir() else None
    except ModelError:
        return None  # a folder with a config alone


def _samples(
    stage: Stage, rows: list[TrainingRow] | None, size: tuple[int, int] | None, jpeg_side: int | None
) -> dict[str, Item]:
    """Return the longest input of each role, with blank pictures of the right size in place of its own."""
    samples: dict[str, Item] = {}
    for role in stage.encoded:
        if rows is None:
            samples[role] = _example(role, Image.new("RGB", size or STANDARD_PICTURE))
        else:
            samples[role] = _longest(_items(rows, role, stage), size, jpeg_side)
    if rows is not None:
        return samples  # whose rows stand on their sides of the search already
    return stage.sides.of(stage.data[0]).put(TrainingRow("", "", samples)).roles


def _items(rows: list[TrainingRow], role: str, stage: Stage) -> list[Item]:
    items = [item for row in rows for item in _items_of(row, role, stage.hard_negatives)]
    if role == "hard_negative":  # those that are mined while it trains are what can be found
        found = stage.mined_roles[1:]
        items += [row.roles[name] for row in rows for name in found if name in row.roles]
    return items or [Document(text=WORDS)]  # hard negatives that no row has


def _items_of(row: TrainingRow, role: str, hard_negatives: int | None) -> tuple[Item, ...]:
    return row.hard_negatives[:hard_negatives] if role == "hard_negative" else (row.roles[role],)


def _longest(items: list[Item], size: tuple[int, int] | None, jpeg_side: int | None) -> Item:
    """Return the item of the most words, with blank pictures as many and as large as those of any item."""
    longest = max(items, key=_characters)
    if not longest.images:
        return longest
    blank = Image.new("RGB", size or max(_sizes(items[:SAMPLE], jpeg_side), key=_area))
    return replace(longest, image=[blank] * max(len(item.images) for item in items))


def _sizes(items: list[Item], jpeg_side: int | None) -> list[tuple[int, int]]:
    """Return the sizes of the pictures that can be read, as they are decoded: a run replaces the rows of others.

    Raises ImageError where none can be.
    """
    sizes, first = [], None
    for picture in (picture for item in items for picture in item.images):
        try:
            sizes.append(load_image(picture, jpeg_side=jpeg_side).size)
        except ImageError as error:
            first = first or error
    if first and not sizes:
        raise first
    return sizes


def _inputs_a_row(stage: Stage, rows: list[TrainingRow] | None, role: str) -> int:
    """Return how many inputs of a role a row has at most."""
    if role == "hard_negative" and stage.mine:
        own = max((len(row.hard_negatives) for row in rows or ()), default=0)
        return min(own + stage.mine.count, stage.hard_negatives or own + stage.mine.count)
    if rows is None:
        return stage.hard_negatives or 1 if role == "hard_negative" else 1
    return max(len(_items_of(row, role, stage.hard_negatives)) for row in rows)


def _avoided(rows: list[TrainingRow] | None, role: str) -> Item | None:
    """Return the longest of what the queries of a role avoid; None where they avoid nothing."""
    items = [words for row in rows or () if role in row.roles and (words := words_to_avoid(row.roles[role]))]
    return max(items, key=_characters, default=None)


def _characters(item: Item) -> int:
    return len(item.text or "") + len(item.words or "")


def _pixels(item: Item) -> int:
    return sum(_area(picture.size) for picture in _pictures(item))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _pictures(item: Item) -> list[Image.Image]:
    """Return the pictures of a sample, which are blank ones."""
    return [picture for picture in item.images if isinstance(picture, Image.Image)]


def _with_pictures(item: Item, other: Item) -> Item:
    """Return the words of the one item with the pictures of the other."""
    return replace(item, image=list(other.images)) if other.images else item


def _example(role: str, picture: Image.Image) -> Item:
    """Return what a role looks like, by its name."""
    if role in ("composed", "query"):
        return Query(picture, WORDS)
    if role == "composed_text":
        return Query(text=WORDS, instruction=WORDS)
    if role == "target_captioned":
        return Document(image=picture, text=WORDS)
    return Document(image=picture) if role in PICTURE_ROLES else Document(text=WORDS)


def _processed(item_processor: ItemProcessor, config: Any, item: Item) -> MicroBatch:
    """Return a micro-batch of `item` alone, as the processor makes it."""
    item = item_processor.lengths.bounded(item)
    try:
        batch = item_processor([item])
    except DataError:  # too long, or none that this model can take
        batch = item_processor([item_processor.prepared(item)[0]])
    ids, pixels = batch["input_ids"], batch.get("pixel_values")
    if pixels is None:
        return MicroBatch(item.role, 1, ids.shape[1])
    patches = pixels.numel() // item_processor.family.pictures.pixels_a_patch(config.vision_config)
    tokens = int(torch.isin(ids, torch.tensor(item_processor.processor.image_token_ids)).sum())
    features = int(batch[RUNS].sum()) if RUNS in batch else tokens
    return MicroBatch(item.role, 1, ids.shape[1], tokens, features, patches, pixels.numel())
