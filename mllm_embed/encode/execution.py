"""A plan carried through: its steps computed one after the other, their vectors put in the list's order."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
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
    unless the plan skips such inputs.
    """
    vectors = np.zeros((plan.given.inputs, model.width), np.float32)
    failures = dict(plan.failures)
    thoughts = {number: one.thought for number, one in enumerate(plan.inputs) if one.thought is not None}
    for batch in prefetch(plan, items):
        for number, reason in batch.failures.items():
            failures |= dict.fromkeys(plan.places[number], reason)
        if batch.model_input is None:
            continue
        for number, vector in zip(batch.numbers, forward(model, batch.model_input, packed), strict=True):
            vectors[plan.places[number]] = vector
            bar.update(_listed(plan, plan.places[number]))
        if isinstance(batch.model_input, ThinkingBatch):
            thoughts |= zip(batch.numbers, batch.model_input.thoughts, strict=True)
    # an input without a vector is done too
    bar.update(_listed(plan, failures))
    told = {place: thought for number, thought in thoughts.items() for place in plan.places[number]}
    return Encoded(plan.avoided.vectors(vectors), plan.avoided.failures(failures), told)


def _listed(plan: EncodingPlan, places: Iterable[int]) -> int:
    """Return how many of some places are in the list itself, and not behind it."""
    return sum(place < plan.avoided.listed for place in places)


@torch.inference_mode()
def forward(model: EmbeddingModel, model_input: ModelInput, packed: bool = False) -> np.ndarray:
    """Return the vectors [N, D] float32 of a batch, on the CPU."""
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
