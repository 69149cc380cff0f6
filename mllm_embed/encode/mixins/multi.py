"""Late interaction: several vectors an input, one for each token that counts (ColBERT, arXiv 2004.12832; of pictures
ColPali, arXiv 2407.01449). What is searched for may be a picture with what to change in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigError, ModelError
from ...inputs.plain_values import items_of
from ...vectors.multi import MultiVectors
from ...vectors.precision import check_dim, truncate
from ...vectors.token_pooling import check_factor, pooled_tokens
from ..execution import check_call, embedding_bar, execute_multi

if TYPE_CHECKING:
    from ...inputs.item_processor import ItemProcessor
    from ...model.embedding_model import EmbeddingModel
    from ...saving.settings import Settings


class EncodesMulti:
    """A mixin of an embedder that gives each input a vector a token, where its pooling is `multi`."""

    model: EmbeddingModel
    item_processor: ItemProcessor
    settings: Settings
    dim: int | None
    plan: Any

    @property
    def multi(self) -> bool:
        """Whether the model makes several vectors of an input, so that `encode_multi` encodes, and `encode` does
        not."""
        return self.model.multi

    def encode_multi(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        dim: int | None = None,
        pool_factor: int = 1,
        packed: bool = False,
        show_progress: bool | None = None,
        unreadable: dict[int, str] | None = None,
    ) -> MultiVectors:
        """Embed what `encode` of other models does; `vectors.maxsim.maxsim` compares what comes out.

        Args:
            inputs, batch_size, dim, packed, show_progress, unreadable: as of `encode`; what cannot be read has no
                vectors.
            pool_factor: of documents so many vectors, near each other, become their mean (vectors/token_pooling.py).

        Returns the vectors [T, D] float32 of each input, L2-normalised, in the order of its tokens. Raises as `encode`,
        and ConfigError for a model of single vectors, and for a query that avoids something, which is taken from a
        single vector.
        """
        if not self.multi:
            raise ConfigError("this model makes one vector of an input (pooling is not 'multi'): use encode")
        items = items_of(inputs)
        check_call(batch_size, unreadable, "numpy")
        check_factor(pool_factor)
        check_dim(dim, self.model.width)
        if not self.settings.renormalize and (dim or self.dim or self.model.width) < self.model.width:
            raise ConfigError(
                "MaxSim adds inner products of unit vectors, and this model leaves those that it cuts shorter "
                "(renormalize: false); keep whole vectors"
            )
        work = self.plan(items, batch_size=batch_size, skip_unreadable=unreadable is not None)
        with embedding_bar(work, show_progress) as bar:
            vectors, failures = execute_multi(work, self.model, self.item_processor, packed, bar)
        _check_finite(vectors)
        if unreadable is not None:
            unreadable.update(failures)
        values = truncate(vectors.values, dim or self.dim, self.settings.renormalize)
        found = MultiVectors(values, vectors.starts)
        if pool_factor == 1:
            return found
        factors = [pool_factor if item.side == "document" else 1 for item in items]
        return MultiVectors.of(list(map(pooled_tokens, found, factors)), values.shape[1])


def _check_finite(vectors: MultiVectors) -> None:
    broken = next((place for place, own in enumerate(vectors) if not np.isfinite(own).all()), None)
    if broken is not None:
        raise ModelError(f"the vectors of input {broken} hold NaN: mend the model, or compute in float32")
