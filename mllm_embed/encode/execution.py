"""A plan carried through: its steps computed one after the other, their vectors put in the list's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from tqdm import tqdm

from ..errors import ConfigError, ModelError, kind_of
from ..inputs.item_processor import ItemProcessor
from ..model.embedding_model import EmbeddingModel
from ..model.heads.lexical_head import Lexical
from ..model.prefix_cache import SharedBatch
from ..thoughts.decoding import ThinkingBatch, think
from ..thoughts.writer import Thought
from ..vectors.multi import MultiVectors
from ..vectors.sparse import no_rows, sparse_rows
from .memory import keep_pages
from .planning import EncodingPlan
from .prefetch import Batch, ModelInput, prefetch

NOT_OF_SEVERAL = "which is taken from a single vector, and this model makes one a token (pooling multi)"
"""Why such a model takes nothing to avoid."""
_SHOWN = 80  # letters of an input in a message


@dataclass(frozen=True)
class Encoded:
    """What became of a list of inputs.

    Args:
        vectors: [N, D] float32 in the order of the list, whole and L2-normalised; 0 for what cannot be embedded.
        failures: why inputs cannot be embedded, by their places in the list.
        thoughts: what inputs thought first, by their places.
        words: [N, V] float32, the lexical vectors of a plan that asks for them, 0 as vectors are; None without.
    """

    vectors: np.ndarray
    failures: dict[int, str]
    thoughts: dict[int, Thought] = field(default_factory=dict)
    words: csr_array | None = None

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

    words = None if plan.lexical is None else _Words(plan.lexical, model.vocabulary)
    failures, thoughts = _carried_through(plan, model, items, packed, bar, keep, words)
    lexical = words and words.of_list(plan.places, plan.avoided.listed)
    return Encoded(plan.avoided.vectors(vectors), plan.avoided.failures(failures), thoughts, lexical)


def execute_multi(
    plan: EncodingPlan, model: EmbeddingModel, items: ItemProcessor, packed: bool, bar: tqdm
) -> tuple[MultiVectors, dict[int, str]]:
    """Do as `execute` for a model that makes several vectors of an input; return these, none of what cannot be
    embedded, and why by its place. Raises ConfigError for a list of which an input avoids something."""
    if plan.avoided.words_of:
        place = next(iter(plan.avoided.words_of))
        raise ConfigError(f"input {place} avoids something, {NOT_OF_SEVERAL}; leave avoid out")
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
    keep: Callable[[list[int], np.ndarray], None], words: _Words | None = None,
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
        for number, vector in zip(batch.numbers, _vectors(model, batch, packed, words), strict=True):
            keep(plan.places[number], vector)
            bar.update(_listed(plan, plan.places[number]))
        if isinstance(batch.model_input, ThinkingBatch):
            thoughts |= zip(batch.numbers, batch.model_input.thoughts, strict=True)
    # an input without a vector is done too
    bar.update(_listed(plan, failures))
    return failures, {place: thought for number, thought in thoughts.items() for place in plan.places[number]}


class _Words:
    """The lexical vectors of a plan's inputs, as its steps come."""

    def __init__(self, lexical: Lexical, vocabulary: int):
        self.lexical, self.vocabulary = lexical, vocabulary
        self._rows: list[csr_array] = []
        self._numbers: list[int] = []

    def add(self, numbers: Sequence[int], weights: torch.Tensor) -> None:
        """Keep the heaviest words of some inputs' weights [B, V]."""
        heaviest = weights.topk(min(self.lexical.words, weights.shape[1]), 1)
        self._rows.append(sparse_rows(heaviest.values.cpu().numpy(), heaviest.indices.cpu().numpy(), self.vocabulary))
        self._numbers += numbers

    def of_list(self, places: Sequence[Sequence[int]], listed: int) -> csr_array:
        """Return those of the list [N, V], of which each input has its places."""
        at = np.full(listed, len(self._numbers))  # the last row: of what cannot be embedded
        for row, number in enumerate(self._numbers):
            at[places[number]] = row
        return vstack([*self._rows, no_rows(self.vocabulary, 1)], format="csr")[at]


def _vectors(model: EmbeddingModel, batch: Batch, packed: bool, words: _Words | None) -> np.ndarray:
    """Return the vectors [B, D] float32 of a step, and let `words` have its lexical ones."""
    given: Any = batch.model_input
    if words is None:
        return forward(model, given, packed)
    vectors, weights = forward_with_words(model, given, words.lexical.tokens, packed)
    words.add(batch.numbers, weights)
    return vectors


def _listed(plan: EncodingPlan, places: Iterable[int]) -> int:
    """Return how many of some places are in the list itself, and not behind it."""
    return sum(place < plan.avoided.listed for place in places)


@torch.inference_mode()
def forward(model: EmbeddingModel, model_input: ModelInput, packed: bool = False) -> np.ndarray:
    """Return what the model makes of a batch, [N, D] float32 or [N, T, D], on the CPU."""
    device = _ready(model)
    if isinstance(model_input, SharedBatch):
        vectors = model.shared(model_input.to(device))
    elif isinstance(model_input, ThinkingBatch):
        vectors = think(model, model_input.to(device))
    else:
        vectors = model(packed, **{name: tensor.to(device) for name, tensor in model_input.items()})
    return vectors.cpu().numpy()


@torch.inference_mode()
def forward_with_words(
    model: EmbeddingModel, model_input: ModelInput, tokens: int, packed: bool = False
) -> tuple[np.ndarray, torch.Tensor]:
    """Return the same vectors, and the lexical ones [N, V] float32 where the model is, off the last `tokens` of each
    input. Raises ConfigError for inputs that think first."""
    device = _ready(model)
    if isinstance(model_input, SharedBatch):
        vectors, words = model.shared_with_words(tokens, model_input.to(device))
    elif isinstance(model_input, ThinkingBatch):
        raise ConfigError("a query that thinks first has no lexical vector; give thoughts=0")
    else:
        given = {name: tensor.to(device) for name, tensor in model_input.items()}
        vectors, words = model.with_words(tokens, packed, **given)
    return vectors.cpu().numpy(), words


def _ready(model: EmbeddingModel) -> torch.device:
    """Return where a model lies, which computes as for use from then on."""
    if any(module.training for module in model.modules()):  # as training, which encodes in between, may have left it
        model.eval()  # a hundred modules are set in a millisecond, and looked at in a tenth of one
    return next(model.parameters()).device
