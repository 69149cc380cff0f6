"""Forms of a vector a token: the vectors themselves, means of near ones, and encodings of them all as one (FDE)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mllm_embed.index.encoded_sets import EncodedSets
from mllm_embed.vectors.fde import FDE
from mllm_embed.vectors.maxsim import maxsim
from mllm_embed.vectors.multi import MultiVectors
from mllm_embed.vectors.token_pooling import pooled_tokens

from .built import Built, Untrained, best
from .single import BYTES, kept


@dataclass(frozen=True)
class Several(Untrained):
    """All vectors of a picture, of a number format, so many near ones as their mean; all compared by MaxSim."""

    dtype: str
    factor: int = 1

    def stored(self, gallery: MultiVectors) -> MultiVectors:
        """Return a gallery as it comes back from a store."""
        values = gallery.values
        fewer = MultiVectors.of([pooled_tokens(own, self.factor) for own in gallery], values.shape[1])
        return MultiVectors(kept(fewer.values, self.dtype), fewer.starts)

    def bytes(self, stored: MultiVectors) -> float:
        """Return the bytes of a picture."""
        return BYTES[self.dtype] * stored.values.size / len(stored)

    def build(self, gallery: MultiVectors, folder: Path) -> Built:
        """As `Form.build`."""
        stored = self.stored(gallery)
        return Built(self.bytes(stored), 0, lambda queries, count: best(maxsim(queries, stored), count))


@dataclass(frozen=True)
class Encodings(Untrained):
    """Fixed dimensional encodings of a picture's vectors in an index, perhaps with MaxSim over those that it finds.

    What an index of them learns, it learns of the gallery itself.

    Args:
        planes, repetitions, final: as of `FDE`, whose inner projection is to 16 numbers.
        kind: of the index.
        depth: how many times as many candidates as answers MaxSim ranks; 0 for none, so that the sets are not kept.
        sets: the form in which they are.
    """

    planes: int
    repetitions: int
    kind: str = "flat"
    final: int | None = None
    depth: int = 0
    sets: Several = field(default=Several("float16"))

    def build(self, gallery: MultiVectors, folder: Path) -> Built:
        """As `Form.build`."""
        stored = self.sets.stored(gallery)
        form = FDE(stored.values.shape[1], self.planes, self.repetitions, 16, self.final)
        index = EncodedSets(stored, form, self.kind)

        def again(queries: MultiVectors, count: int):
            return index.search(queries, count, depth=self.depth)[1]

        def alone(queries: MultiVectors, count: int):
            return index.engine.search(form.queries(queries), count, index.engine.most)[1]

        size = index.engine.code_bytes + (self.sets.bytes(stored) if self.depth else 0)
        return Built(size, 0, again if self.depth else alone)
