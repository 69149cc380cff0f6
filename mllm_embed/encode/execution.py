"""A plan carried through: its steps computed one after the other, their vectors put in the list's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
import torch
from tqdm import tqdm

from ..errors import ConfigError, ModelError, kind_of
from ..inputs.item_processor import ItemProcessor
from ..model.embedding_model import EmbeddingModel
from ..model.prefix_cache import SharedBatch
from ..thoughts.decoding import ThinkingBatch, think
from ..thoughts.writer import Thought
from ..vectors.multi import MultiVectors
from .memory import keep_pages
from .planning import EncodingPlan
from .prefetch import ModelInput, prefetch

_SHOWN = 80  # letters of an input in a message


@dataclass(frozen=True)
class Encoded:
    """What became of a list of inputs.

    Args:
        vectors: [N, D] float32 in the order of the list, whole and L2-normalised; 0 for what cannot be embedded.
        failures: why inputs cannot be embedded, by their places in the list.
        thoughts: what inputs thought first, by their places.
    """

    vectors: np.ndarray
    failures: dict[int, str]
    thoughts: dict[int, Thought] = field(default_factory=dict)

    def check_finite(self, inputs: Sequence[object]) -> None:
        """Raise ModelError, which shows the input, for the first vector that holds NaN or infinite numbers."""
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
        if len(bad):
            shown = str(inputs[bad[0]])[:_SHOWN]
            raise ModelError(
                f"the vector of input {bad[0]}, {shown!r}, holds NaN: nothing can be near it; mend the model, or "
                "compute in float32"
            )


def check_call(batch_size: object, unreadable: object, convert_to: object) -> None:
    """Raise ConfigError for options of `encode` that are not what they must be."""
    if type(batch_size) is bool or not isinstance(batch_size, Integral) or batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size!r}: give a whole number")
    if not isinstance(unreadable, MutableMapping | None):
        raise ConfigError(f"unreadable is a dict to fill, not {kind_of(unreadable)}")
    if convert_to not in ("numpy", "torch"):
        raise ConfigError(f"convert_to is 'numpy' or 'torch', not {convert_to!r}")


def execute(plan: EncodingPlan, model: EmbeddingModel, items: ItemProcessor, packed: bool, bar: tqdm) -> Encoded:
    """Compute a plan with the model that it was made for; the bar moves on by each input of the list.

    `packed` lays short inputs in shared rows. Raises ImageError or DataError for the first input that cannot be read,
    unless the plan skips such inputs, and ConfigError for a model that makes several vectors of an input.
    """
    if model.multi:
        raise ConfigError(
            "this model makes one vector a token (pooling multi), and here one vector an input is asked for: "
            "encode_multi gives all of them; take a model of single vectors for the rest"
        )
    vectors = np.zeros((plan.given.inputs, model.width), np.float32)

    def keep(places: list[int], vector: np.ndarray) -> None:
        vectors[places] = vector

    failures, thoughts = _carried_through(plan, model, items, packed, bar, keep)
    return Encoded(plan.avoided.vectors(vectors), plan.avoided.failures(failures), thoughts)


def execute_multi(
    plan: EncodingPlan, model: EmbeddingModel, items: ItemProcessor, packed: bool, bar: tqdm
) -> tuple[MultiVectors, dict[int, str]]:
    """Do as `execute`, of a list that avoids nothing, for a model that makes several vectors of an input; return these,
    none of what cannot be embedded, and why by its place."""
    rows = [np.empty((0, model.width), np.float32)] * plan.given.inputs

    def keep(places: list[int], vectors: np.ndarray) -> None:
        for place in places:
            rows[place] = vectors[vectors.any(axis=1)]

    failures, _ = _carried_through(plan, model, items, packed, bar, keep)
    return MultiVectors.of(rows, model.width), failures


@contextmanager
def embedding_bar(work: EncodingPlan, show_progress: bool | None) -> Iterator[tqdm]:
    """Show a bar of a plan's inputs, None on a terminal alone."""
    hide = None if show_progress is None else not show_progress
    with tqdm(total=work.avoided.listed, desc="embedding", unit="input", disable=hide, mininterval=1) as bar:
        yield bar


def _carried_through(
    plan: EncodingPlan, model: EmbeddingModel, items: ItemProcessor, packed: bool, bar: tqdm,
    keep: Callable[[list[int], np.ndarray], None],
) -> tuple[dict[int, str], dict[int, Thought]]:  # fmt: skip
    """Compute a plan; `keep` takes what the model made of an input, and where that stands. Return why others cannot be
    embedded, and what inputs thought first, by their places. On a CPU this process keeps freed memory from then on
    (memory.py)."""
    if next(model.parameters()).device.type == "cpu":
        keep_pages()
    failures = dict(plan.failures)
    thoughts = {number: one.thought for number, one in enumerate(plan.inputs) if one.thought is not None}
    for batch in prefetch(plan, items):
        for number, reason in batch.failures.items():
            failures |= dict.fromkeys(plan.places[number], reason)
        if batch.model_input is None:
            continue
        for number, vector in zip(batch.numbers, forward(model, batch.model_input, packed), strict=True):
            keep(plan.places[number], vector)
            bar.update(_listed(plan, plan.places[number]))
        if isinstance(batch.model_input, ThinkingBatch):
            thoughts |= zip(batch.numbers, batch.model_input.thoughts, strict=True)
    # an input without a vector is done too
    bar.update(_listed(plan, failures))
    return failures, {place: thought for number, thought in thoughts.items() for place in plan.places[number]}


def _listed(plan: EncodingPlan, places: Iterable[int]) -> int:
    """Return how many of some places are in the list itself, and not behind it."""
    return sum(place < plan.avoided.listed for place in places)


@torch.inference_mode()
def forward(model: EmbeddingModel, model_input: ModelInput, packed: bool = False) -> np.ndarray:
    """Return what the model makes of a batch, [N, D] float32 or [N, T, D], on the CPU."""
    if any(module.training for module in model.modules()):  # as training, which encodes in between, may have left it
        model.eval()  # a hundred modules are set in a millisecond, and looked at in a tenth of one
    device = next(model.parameters()).device
    if isinstance(model_input, SharedBatch):
        vectors = model.shared(model_input.to(device))
    elif isinstance(model_input, ThinkingBatch):
        vectors = think(model, model_input.to(device))
    else:
        vectors = model(packed, **{name: tensor.to(device) for name, tensor in model_input.items()})
    return vectors.cpu().numpy()
