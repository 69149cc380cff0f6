"""From the steps of a plan to model input, while the model computes the steps before.

Pictures are decoded in several threads. One thread tokenises and calls the processor: a tokenizer serves one at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, chain
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError, ImageError
from ..inputs.images import load_image
from ..inputs.item_processor import ItemProcessor
from ..model.prefix_cache import SharedBatch
from ..types import Item
from .planning import EncodingPlan, Step, without
from .suffixes import shared_batch

AHEAD = 2  # steps whose input is in memory before its turn, with their pictures
THREADS = min(os.cpu_count() or 1, 16)
ModelInput: TypeAlias = dict[str, Tensor] | SharedBatch
DecodedPictures: TypeAlias = dict[int, list[Future[Image.Image]]]


def prepared(work: EncodingPlan, items: ItemProcessor) -> Iterator[tuple[Step, ModelInput]]:
    """The steps in their order with their model input.

    Inputs that cannot be read are noted in `work.lost`, and their step comes without them; raises ImageError or
    DataError for the first where that is None.
    """
    with ThreadPoolExecutor(THREADS, "decode") as decoders, ThreadPoolExecutor(1, "prepare") as pool:
        jobs: deque[Future[tuple[Step, ModelInput] | None]] = deque()
        try:
            for step in work.steps:
                jobs.append(pool.submit(_prepare, work, items, step, _decoding(work, step, decoders)))
                if len(jobs) > AHEAD and (made := jobs.popleft().result()):
                    yield made
            while jobs:
                if made := jobs.popleft().result():
                    yield made
        finally:
            pool.shutdown(cancel_futures=True)
            decoders.shutdown(cancel_futures=True)


def _decoding(work: EncodingPlan, step: Step, decoders: Executor) -> DecodedPictures:
    """The pictures of a step on their way, by the number of the first input that shows them."""
    first = [group[0] for group in step.groups]
    return {number: [decoders.submit(load_image, image) for image in work.items[number].images] for number in first}


def _prepare(
    work: EncodingPlan, items: ItemProcessor, step: Step, pictures: DecodedPictures
) -> tuple[Step, ModelInput] | None:
    try:
        return step, _input(work, items, step, pictures)
    except (ImageError, DataError):
        bad = {} if work.lost is None else _unreadable(work, items, step)
        if not bad:
            return step, _input(work, items, step, {})  # which fails again, and names the picture by its path
        work.lost.update({place: why for number, why in bad.items() for place in work.places[number]})
        left = without(step, bad)
        return (left, _input(work, items, left, {})) if left.groups else None


def _input(work: EncodingPlan, items: ItemProcessor, step: Step, pictures: DecodedPictures) -> ModelInput:
    def ready(number: int) -> Item:
        item, shown = work.items[number], pictures.get(number)
        return replace(item, image=[picture.result() for picture in shown]) if shown else item

    groups = [[ready(number) for number in group] for group in step.groups]
    shared = shared_batch(items, groups, step.tails, work.budget) if step.tails else None
    if shared is not None:
        return shared
    batch = items(list(chain.from_iterable(groups)))
    if items.family.reuses_features and len(groups) < sum(map(len, groups)):
        sizes = [len(group) for group in groups]
        firsts = [start for start, size in zip(accumulate([0, *sizes]), sizes, strict=False) for _ in range(size)]
        batch["first_shown"] = torch.tensor(firsts)
    return batch


def _unreadable(work: EncodingPlan, items: ItemProcessor, step: Step) -> dict[int, str]:
    """Which of a step's inputs cannot be read, and why."""
    bad = {}
    for number in chain.from_iterable(step.groups):
        try:
            items.prepared(work.items[number])
        except (ImageError, DataError) as error:
            bad[number] = str(error)
    return bad
