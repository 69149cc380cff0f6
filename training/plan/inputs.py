"""What a step of a stage feeds the model: for each kind of input how many, how long, with how many patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from mllm_embed.inputs.images import load_image
from mllm_embed.inputs.item_processor import ItemProcessor
from mllm_embed.inputs.prompts import PromptSet
from mllm_embed.model.families import family_of
from mllm_embed.types import Document, Item, Query

from ..data import TrainingRow
from ..data.roles import PICTURE_ROLES
from ..recipe.config import Stage

# What stands for a data set that is not on disk: its words are about as long as a long caption of COCO, its pictures
# have COCO's usual size.
WORDS = "a man in a red jacket rides a brown horse along the beach while two dogs run behind him at sunset"
PICTURE = (640, 480)
SAMPLE = 32  # pictures of a data set whose size is looked at
CHARACTERS = 3  # a token, at least, in English; for a model whose tokenizer is not at hand
MARKUP = 16  # tokens of a chat template, for the same


@dataclass(frozen=True)
class MicroBatch:
    """Inputs of one kind in a step: `count` of them, each `length` tokens, of which `image_tokens` stand for a picture.

    `patches` and `pixels` (numbers, all channels) are those of one input. `frozen` ones go through the model without
    its adapter, after the others and without gradient.
    """

    kind: str
    count: int
    length: int
    image_tokens: int = 0
    patches: int = 0
    pixels: int = 0
    frozen: bool = False


@dataclass(frozen=True)
class Picture:
    """What a model makes of one picture."""

    tokens: int
    patches: int
    pixels: int


def micro_batches(
    stage: Stage,
    rows: list[TrainingRow] | None,
    config: Any,
    processor: Any,
    prompts: PromptSet,
    size: tuple[int, int] | None,
) -> list[MicroBatch]:
    """The micro-batches of one step, in the collator's order, at their largest: all inputs distinct, words the longest.

    `rows` are the stage's where its data is on disk, `processor` the model's where it is at hand; `size` is the
    pictures' width and height, by default the largest found among the rows, else 640 x 480.
    """
    samples = _samples(stage, rows, size)
    counts: dict[tuple[bool, str], int] = {}
    for use in sorted(stage.uses, key=lambda use: use.frozen):
        group = use.frozen, samples[use.role].role
        counts[group] = counts.get(group, 0) + stage.batch_size * _times(stage, rows, use.role)
    items = ItemProcessor(processor, prompts, family_of(config)) if processor is not None else None
    batches = []
    for (frozen, kind), count in counts.items():
        alike = [sample for sample in samples.values() if sample.role == kind]
        longest = _joined(max(alike, key=_pixels), max(alike, key=_letters))
        one = _processed(items, config, longest) if items else _estimated(config, prompts, longest)
        batches.append(replace(one, count=count, frozen=frozen))
    return batches


def _samples(stage: Stage, rows: list[TrainingRow] | None, size: tuple[int, int] | None) -> dict[str, Item]:
    """The longest input of each role, with blank pictures of the right size in place of its own."""
    if rows is None:
        picture = Image.new("RGB", size or PICTURE)
        return {role: _example(role, picture) for role in stage.encoded}
    samples = {}
    for role in stage.encoded:
        items = [item for row in rows for item in _played(row, role, stage.hard_negatives)]
        if not items:  # hard negatives that no row has
            items = [Document(text=WORDS)]
        item = max(items, key=_letters)
        if item.images:
            sizes = [load_image(picture).size for item in items[:SAMPLE] for picture in item.images]
            picture = Image.new("RGB", size or max(sizes, key=math.prod))
            item = replace(item, image=[picture] * max(len(other.images) for other in items))
        samples[role] = item
    return samples


def _played(row: TrainingRow, role: str, hard_negatives: int | None) -> tuple[Item, ...]:
    return row.hard_negatives[:hard_negatives] if role == "hard_negative" else (row.roles[role],)


def _times(stage: Stage, rows: list[TrainingRow] | None, role: str) -> int:
    """How many inputs of a role a row has at most."""
    if rows is None:
        return stage.hard_negatives or 1 if role == "hard_negative" else 1
    return max(len(_played(row, role, stage.hard_negatives)) for row in rows)


def _letters(item: Item) -> int:
    return len(item.text or "") + len(item.words or "")


def _pixels(item: Item) -> int:
    return sum(math.prod(picture.size) for picture in item.images)


def _joined(shown: Item, told: Item) -> Item:
    """The pictures of the one with the words of the other."""
    return replace(told, image=list(shown.images)) if shown.images else told


def _example(role: str, picture: Image.Image) -> Item:
    """What a role looks like, by its name."""
    if role in ("composed", "query"):
        return Query(picture, WORDS)
    if role == "composed_text":
        return Query(text=WORDS, instruction=WORDS)
    if role == "target_captioned":
        return Document(image=picture, text=WORDS)
    return Document(image=picture) if role in PICTURE_ROLES else Document(text=WORDS)


def _processed(items: ItemProcessor, config: Any, item: Item) -> MicroBatch:
    """A micro-batch of `item` alone, as the processor makes it."""
    batch = items([item])
    ids, pixels = batch["input_ids"], batch.get("pixel_values")
    if pixels is None:
        return MicroBatch(item.role, 1, ids.shape[1])
    vision = config.vision_config
    patches = pixels.numel() // (3 * side_of(vision.patch_size) ** 2 * getattr(vision, "temporal_patch_size", 1))
    tokens = int(torch.isin(ids, torch.tensor(items.processor.image_token_ids)).sum())
    return MicroBatch(item.role, 1, ids.shape[1], tokens, patches, pixels.numel())


def _estimated(config: Any, prompts: PromptSet, item: Item) -> MicroBatch:
    """The same from the config alone."""
    words = {item.text, item.words} - {None}  # one and the same in a Document
    characters = sum(map(len, [prompts.template(item.role), *words]))
    length = math.ceil(characters / CHARACTERS) + MARKUP
    pictures = [picture_cost(config, *picture.size) for picture in item.images]
    tokens = sum(picture.tokens for picture in pictures)
    patches, pixels = sum(p.patches for p in pictures), sum(p.pixels for p in pictures)
    return MicroBatch(item.role, 1, length + tokens, tokens, patches, pixels)


def picture_cost(config: Any, width: int, height: int) -> Picture:
    """Tokens and patches of a picture, by the four ways in which models cut pictures, told by what their config holds.

    spatial_merge_size: any size, neighbours merged (Qwen2-VL, arXiv 2409.12191); scale_factor: tiles and a thumbnail,
    pixels shuffled (Idefics3, arXiv 2408.12637); image_grid_pinpoints: the best of a few grids and a thumbnail
    (LLaVA-NeXT); none of them: one square (LLaVA, arXiv 2304.08485).
    """
    vision = config.vision_config
    patch, frames = side_of(vision.patch_size), getattr(vision, "temporal_patch_size", 1)
    if hasattr(vision, "spatial_merge_size"):
        patches = _any_size(width, height, patch, vision.spatial_merge_size)
        return Picture(patches // vision.spatial_merge_size**2, patches, patches * 3 * patch**2 * frames)
    side = side_of(vision.image_size)
    grid = side // patch
    if hasattr(config, "scale_factor"):
        rows, columns = _tiles(width, height, side)
        one = (grid // config.scale_factor) ** 2
        tokens = one + 3 + rows * (columns * (one + 2) + 1)  # each tile has its own marks
        tiles = rows * columns + 1
    elif hasattr(config, "image_grid_pinpoints"):
        tokens, tiles = _best_grid(width, height, side, grid, config.image_grid_pinpoints)
    else:
        tokens, tiles = getattr(config, "mm_tokens_per_image", grid**2), 1  # Gemma 3 pools its patches
    return Picture(tokens, tiles * grid**2, tiles * 3 * side**2)


def side_of(length: Any) -> int:
    """Some configs write a square's side as a pair."""
    return length[0] if isinstance(length, (list, tuple)) else length


def _any_size(width: int, height: int, patch: int, merge: int) -> int:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    # 4 to 16,384 tokens a picture, as the released models' preprocessor_config.json has it (max_pixels 12,845,056 of 28
    # x 28 a token); the class by itself stops at a tenth of that
    token = (patch * merge) ** 2
    size = {"shortest_edge": 4 * token, "longest_edge": 16384 * token}
    processor = Qwen2VLImageProcessorPil(patch_size=patch, merge_size=merge, size=size)
    return processor.get_number_of_image_patches(height, width, {})


def _tiles(width: int, height: int, side: int) -> tuple[int, int]:
    """Rows and columns when the longer side becomes four tiles long, as the processors of these models do."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    processor = Idefics3ImageProcessorPil(size={"longest_edge": 4 * side}, max_image_size={"longest_edge": side})
    _, rows, columns = processor.get_number_of_image_patches(height, width, {})
    return rows, columns


def _best_grid(width: int, height: int, side: int, grid: int, sizes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Tokens and tiles; the tokens of the padding are dropped, and each row ends with a newline token."""
    from transformers.image_processing_utils import select_best_resolution

    best_height, best_width = select_best_resolution((height, width), sizes)
    rows, columns = best_height // side * grid, best_width // side * grid
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    return grid**2 + rows * columns + rows, best_height * best_width // side**2 + 1
