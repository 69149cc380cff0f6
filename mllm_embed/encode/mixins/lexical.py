"""Lexical vectors of an embedder: a weight for each word of the vocabulary, beside its dense vectors in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from ...errors import ConfigError, ModelError
from ...inputs.plain_values import items_of
from ...model.heads.language_head import give_head
from ...model.heads.lexical_head import Lexical
from ...vectors.precision import truncate
from ..execution import check_call
from ..planning import EncodingPlan

if TYPE_CHECKING:
    from ...model.embedding_model import EmbeddingModel
    from ...saving.settings import Settings
    from ..embedder import MLLMEmbedder


_NONE = "this model has no lexical vectors: load one that was trained for them, or take with_lexical(words=256) of it"


class EncodesWords:
    """A mixin of an embedder whose settings may have lexical vectors."""

    model: EmbeddingModel
    settings: Settings
    dim: int | None
    plan: Any
    execute: Any
    with_settings: Any

    def _prepare_words(self) -> None:
        """Give a model that has lexical vectors its head back.

        Raises ConfigError for a model that cannot have any, ModelError for one without a head in its files, or with
        another one than it was trained on.
        """
        if self.settings.lexical is None:
            return
        _check(self.model, self.settings)
        give_head(self.model, self.settings.base or "", self.settings.base_revision)
        added = self.model.lexical_head
        if added is not None and added.spec.vocabulary != self.model.vocabulary:
            raise ModelError(
                f"the lexical head weighs {added.spec.vocabulary:,} words, and the model's own head has "
                f"{self.model.vocabulary:,}: the two do not belong together; save the model again"
            )

    def with_lexical(self, words: int | None) -> MLLMEmbedder:
        """Return the same model with lexical vectors of so many words at most; without any for 0, itself for None.

        Where nothing was trained for it, they are a reading of the base's own head. Dense vectors stay what they are,
        and nothing is copied. Raises ConfigError for a model that cannot have any, ModelError for one without a head.
        """
        if words is None:
            own: Any = self
            return own
        added = self.model.lexical_head
        usual = Lexical() if added is None else Lexical(rank=added.spec.rank)
        wanted = None if words == 0 else (self.settings.lexical or usual).keeping(words)
        other: MLLMEmbedder = self.with_settings(replace(self.settings, lexical=wanted))
        return other

    def encode_lexical(self, inputs: Sequence[Any], **options: Any) -> csr_array:
        """Return the lexical vectors of inputs alone, as `encode_both` does."""
        return self.encode_both(inputs, **options)[1]

    def encode_both(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        show_progress: bool | None = None,
        unreadable: dict[int, str] | None = None,
    ) -> tuple[np.ndarray, csr_array]:
        """Return the dense vectors of inputs, and their lexical ones, of one pass.

        Args:
            inputs, batch_size, show_progress, unreadable: as of `encode`.

        Returns:
            [N, D] float32 as `encode` gives them, and [N, V] float32, sparse, of unit length: the weight of each word
            of the vocabulary, as the tokenizer numbers them. Either is 0 for an input that is not readable.

        Raises ConfigError for a model without lexical vectors, and for a query that avoids something; all else as
        `encode`.
        """
        items = items_of(inputs)
        check_call(batch_size, unreadable, "numpy")
        work = self.with_words(self.plan(items, batch_size=batch_size, skip_unreadable=unreadable is not None))
        encoded = self.execute(work, show_progress=show_progress)
        encoded.check_finite(inputs)
        if unreadable is not None:
            unreadable.update(encoded.failures)
        return truncate(encoded.vectors, self.dim, self.settings.renormalize), encoded.words

    def with_words(self, work: EncodingPlan) -> EncodingPlan:
        """Return a plan whose execution makes lexical vectors too.

        Raises ConfigError for a model that has none, and for a query that avoids something.
        """
        if self.settings.lexical is None:
            raise ConfigError(_NONE)
        if work.avoided.words_of:
            raise ConfigError(
                "a query that avoids something has no lexical vector, from which nothing is taken: leave out avoid, or "
                "search with dense vectors alone"
            )
        return replace(work, lexical=self.settings.lexical)


def _check(model: EmbeddingModel, settings: Settings) -> None:
    """Raise ConfigError for a model that cannot have lexical vectors."""
    why = {
        "it is an encoder without a language-model head": model.family.headless,
        "it makes one vector a token (pooling multi)": model.multi,
        "it thinks first, and its queries are read off behind their thoughts": settings.thoughts is not None,
        "nothing says from where it was loaded, and its head must be read there": settings.base is None,
    }
    found = next((reason for reason, is_so in why.items() if is_so), None)
    if found:
        raise ConfigError(f"this model has no lexical vectors: {found}; leave lexical out")
