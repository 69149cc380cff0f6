"""From the steps of a plan to model input, while the model computes the steps before.

Pictures are decoded in several threads. One thread calls the processor: a tokenizer serves one at a time. Where there
is nothing to do beside, for a single step or a single picture, no thread is started: a query alone would wait for it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import ParamSpec, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError, ImageError
from ..inputs.item_processor import ItemProcessor
from ..model.prefix_cache import SharedBatch
from ..thoughts.decoding import ThinkingBatch
from ..thoughts.thinking import Thinking
from ..types import Item
from .batching import STEP_PIXELS
from .planning import EncodingPlan, Step, inputs_of
from .shared_batch import shared_batch
from .suffixes import Input

P = ParamSpec("P")
T = TypeVar("T")
AHEAD = 2  # steps whose input is in memory before its turn
WAITING_PIXELS = 2 * STEP_PIXELS  # of pictures that are decoded before their turn, the next step's excepted
THREADS = min(os.cpu_count() or 1, 16)
ModelInput: TypeAlias = dict[str, Tensor] | SharedBatch | ThinkingBatch
DecodedPictures: TypeAlias = list[list[Future[Image.Image]]]  # of each group of a step


@dataclass(frozen=True)
class Batch:
    """A step's model input.

    Args:
        numbers: the inputs of the plan whose vectors it gives, in order.
        model_input: None where none of the step's inputs can be read.
        failures: why others of the step cannot be read, by their numbers.
    """

    numbers: list[int]
    model_input: ModelInput | None
    failures: dict[int, str] = field(default_factory=dict)

    def tokens(self) -> list[int]:
        """Return the tokens of each of `numbers`, those of its prompt and pictures among them, no padding; what it then
        thinks is not known yet."""
        if isinstance(self.model_input, SharedBatch):
            return self.model_input.lengths().tolist()
        given = self.model_input.prompts if isinstance(self.model_input, ThinkingBatch) else self.model_input
        return [] if given is None else given["attention_mask"].sum(1).tolist()


def prefetch(plan: EncodingPlan, items: ItemProcessor) -> Iterator[Batch]:
    """Yield the steps of a plan in their order as model input; AHEAD of them are made before their turn.

    Raises ImageError or DataError for the first input that cannot be read, unless the plan skips such inputs.
    """
    shown = sum(len(plan.inputs[group[0]].item.images) for step in plan.steps for group in step.groups)
    with (
        _threads(THREADS if shown > 1 else 0, "decode") as decoders,
        _threads(1 if len(plan.steps) > 1 else 0, "prepare") as pool,
    ):
        jobs: deque[tuple[Future[Batch], int]] = deque()
        try:
            for step in plan.steps:
                pixels = _pixels(plan, step)
                # a step that is made has let go of its pictures
                while jobs and pixels + sum(waiting for job, waiting in jobs if not job.done()) > WAITING_PIXELS:
                    yield jobs.popleft()[0].result()
                jobs.append((pool.submit(_batch, plan, items, step, _decoding(plan, items, step, decoders)), pixels))
                if len(jobs) > AHEAD:
                    yield jobs.popleft()[0].result()
            while jobs:
                yield jobs.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)
            decoders.shutdown(cancel_futures=True)


class _Here(Executor):
    """Does what it is given at once, in the thread that gives it."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return a future that is done."""
        done: Future[T] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except (ImageError, DataError) as error:  # for whoever asks for the result; anything else ends it all here
            done.set_exception(error)
        return done


def _threads(most: int, name: str) -> Executor:
    return ThreadPoolExecutor(most, name) if most else _Here()


def _decoding(plan: EncodingPlan, items: ItemProcessor, step: Step, decoders: Executor) -> DecodedPictures:
    """Start to decode the pictures of each group, which are those of its first input."""

    def decoding(item: Item) -> list[Future[Image.Image]]:
        return [decoders.submit(items.load, image) for image in item.images]

    return [decoding(plan.inputs[group[0]].item) for group in step.groups]


def _pixels(plan: EncodingPlan, step: Step) -> int:
    """Return how many pixels the pictures of a step have that are decoded for it."""
    return sum(plan.inputs[group[0]].pixels for group in step.groups)


def _results(futures: Sequence[Future[Image.Image]]) -> list[Image.Image]:
    return [future.result() for future in futures]


def _batch(plan: EncodingPlan, items: ItemProcessor, step: Step, pictures: DecodedPictures) -> Batch:
    try:
        return Batch(step.numbers, _model_input(plan, items, step, list(map(_results, pictures))))
    except (ImageError, DataError):
        failures = _unreadable(plan, items, step) if plan.skip_unreadable else {}
        if not failures:
            # without the decoded pictures it fails again, and names the picture by its path
            return Batch(step.numbers, _model_input(plan, items, step))
        rest = step.without(failures)
        return Batch(rest.numbers, _model_input(plan, items, rest) if rest.groups else None, failures)


def _model_input(
    plan: EncodingPlan, items: ItemProcessor, step: Step, pictures: Sequence[list[Image.Image]] | None = None
) -> ModelInput:
    """Return a step's model input; `pictures` are those of each group, where they are decoded."""
    groups = [inputs_of(plan.inputs, group) for group in step.groups]
    if pictures is not None:
        groups = [_showing(group, shown) for group, shown in zip(groups, pictures, strict=True)]
    if step.thinks and plan.thinking:
        return _thinking_batch(items, plan.thinking, groups)
    batch = shared_batch(items, groups, plan.budget) if step.shared else None
    return _plain_batch(items, groups) if batch is None else batch


def _showing(group: Sequence[Input], pictures: list[Image.Image]) -> list[Input]:
    """Return a group's inputs with its pictures decoded."""
    return [replace(one, item=replace(one.item, image=pictures)) for one in group] if pictures else list(group)


def _plain_batch(items: ItemProcessor, groups: Sequence[Sequence[Input]]) -> dict[str, Tensor]:
    inputs = list(chain.from_iterable(groups))
    batch = items([one.item for one in inputs], [one.prompt for one in inputs])
    first = _first_shown(items, groups)
    return batch if first is None else {**batch, "first_shown": first}


def _thinking_batch(items: ItemProcessor, thinking: Thinking, groups: Sequence[Sequence[Input]]) -> ModelInput:
    """Return inputs that think; where their thoughts are known, with these, to be computed as any others."""
    inputs, first = list(chain.from_iterable(groups)), _first_shown(items, groups)
    queries, known = [one.item for one in inputs], [one.thought for one in inputs if one.thought is not None]
    if len(known) < len(inputs):
        asked = [(one.prompt.text if one.prompt else items.render(one.item), one.pictures) for one in inputs]
        return thinking.batch(queries, asked, first)
    batch = thinking.recalled(queries, known)
    return batch if first is None else {**batch, "first_shown": first}


def _first_shown(items: ItemProcessor, groups: Sequence[Sequence[Input]]) -> Tensor | None:
    """Return for each input the row [B] int64 of the first one of its group, which shows the same picture; None where
    the model cannot look at it once for all, or no group has several."""
    if not items.family.reuses_features or all(len(group) == 1 for group in groups):
        return None
    rows: list[int] = []
    for group in groups:
        rows += [len(rows)] * len(group)
    return torch.tensor(rows)


def _unreadable(plan: EncodingPlan, items: ItemProcessor, step: Step) -> dict[int, str]:
    """Return which of a step's inputs cannot be read, and why."""
    failures = {}
    for number in step.numbers:
        try:
            items.prepared(plan.inputs[number].item)
        except (ImageError, DataError) as error:
            failures[number] = str(error)
    return failures
