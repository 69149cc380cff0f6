"""The rows of a shard that is being made: what to embed, and what of it cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from tqdm import tqdm

from ..data.digest import item_digest
from ..data.sources import Listing
from ..encode.embedder import MLLMEmbedder
from ..encode.execution import execute_multi
from ..encode.planning import EncodingPlan
from ..errors import ConfigError, DataError, ImageError, ModelError
from ..saving.provenance import THOUGHTS, check_thoughts
from ..types import Item
from ..vectors.precision import truncate
from .freshness import Contents
from .vector_store import VectorStore


@dataclass
class ShardRows:
    """The rows of a shard: those that could be read with their items and sources, and why the others could not."""

    read: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)

    def drop(self, failures: Mapping[int, str]) -> list[int]:
        """Move items at these places, with the reason of each, to what could not be read; return the places kept."""
        self.lost |= {self.read[at]: reason for at, reason in failures.items()}
        kept = [at for at in range(len(self.read)) if at not in failures]
        lists: list[list[Any]] = [self.read, self.items, self.sources, self.digests]
        for values in lists:
            values[:] = [values[at] for at in kept]
        return kept

    def unread(self, listing: Listing) -> list[dict[str, str]]:
        """Return id, source and reason of each row that could not be read, in order."""
        return [
            {"id": listing.ids[row], "source": listing.where(row), "reason": self.lost[row]}
            for row in sorted(self.lost)
        ]


def read_rows(contents: Contents, rows: Sequence[int], bar: tqdm) -> ShardRows:
    """Read the rows of a shard; the bar moves on by those that cannot be read.

    Raises DataError where a file of rows was changed since it was opened.
    """
    shard = ShardRows()
    for row in rows:
        try:
            item, source = contents.listing.read(row)
            # before the pixels are read: what changes in between has the digest of before, and is embedded anew later
            digest = item_digest(item)
        except (ImageError, DataError) as error:
            shard.lost[row] = str(error)
            bar.update(1)
            continue
        contents.note(row, digest, source)
        shard.read.append(row)
        shard.items.append(item)
        shard.sources.append(source)
        shard.digests.append(digest)
    contents.listing.check_unchanged(rows)
    return shard


def embedded(
    embedder: MLLMEmbedder, work: EncodingPlan, shard: ShardRows, bar: tqdm
) -> tuple[np.ndarray, list[int] | None, csr_array | None]:
    """Return the vectors of a shard's items, [n, D] float32, without those that cannot be read, which it drops; where
    the model makes several of an item [m, D], and how many each has; and where it makes them, lexical ones [n, V]."""
    if not embedder.multi:
        encoded = embedder.execute(work if embedder.settings.lexical is None else embedder.with_words(work), bar=bar)
        kept = np.asarray(shard.drop(encoded.failures), np.int64)
        words = None if encoded.words is None else encoded.words[kept]
        return truncate(encoded.vectors, embedder.dim)[kept], None, words
    found, failures = execute_multi(work, embedder.model, embedder.item_processor, False, bar)
    left = found.take(shard.drop(failures))
    return truncate(left.values, embedder.dim), left.counts.tolist(), None


def check_avoided(embedder: MLLMEmbedder, listing: Listing) -> None:
    """Raise ConfigError for a listing of which a row avoids something, of a model from whose vectors nothing is
    taken."""
    why = {
        "is taken from a single vector, and this model makes one a token (pooling multi)": embedder.multi,
        "is taken from no lexical vector, and this model makes some": embedder.settings.lexical is not None,
    }
    reason = next((reason for reason, is_so in why.items() if is_so), None)
    row = listing.avoiding() if reason else None
    if row is not None:
        raise ConfigError(
            f"{row} avoids something, which {reason}; leave the column out (--fields), or encode with dense vectors "
            "alone"
        )


def check_finite(vectors: np.ndarray, counts: Sequence[int] | None, shard: ShardRows, listing: Listing) -> None:
    """Raise ModelError for the first of a shard's vectors [N, D] float32 that holds NaN or infinite numbers.

    `counts` is as of `embedded`.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        row = bad[0] if counts is None else int(np.searchsorted(np.cumsum(counts), bad[0], side="right"))
        raise ModelError(
            f"the vector of {listing.where(shard.read[row])} holds NaN: nothing can be near it; mend the model, or "
            "try --dtype float32"
        )


def check_listed_thoughts(store: VectorStore, now: Mapping[str, Any], listing: Listing) -> None:
    """Raise ConfigError where a listing has composed queries, and those of the store were made with other thoughts.

    `now` is the provenance of the model; the rows are read where the two differ alone.
    """
    if store.provenance.get(THOUGHTS) != now.get(THOUGHTS):
        check_thoughts(store.provenance, now, _readable(listing), store.folder)


def _readable(listing: Listing) -> Iterator[Item]:
    """Yield the items of all rows that can be read."""
    for row in range(len(listing)):
        with suppress(DataError, ImageError):
            yield listing.read(row)[0]
