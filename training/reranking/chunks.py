"""The chunks in which a step's candidates are computed: whole prompts, or queries' parts with their candidates' behind.

In two parts a query's picture is looked at, and read, once for all of its candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mllm_embed.encode.batching import cut_by_budget
from mllm_embed.inputs.pairs.pair_processor import PairProcessor, Split
from mllm_embed.model.prefix_cache import SharedBatch
from mllm_embed.rerank.shared_lists import Listed, Place, Sharing, shared_lists

from ..batch.collator import Chunk

PairChunk: TypeAlias = Chunk | SharedBatch
Chunked = tuple[PairChunk, list[Place]]
"""A chunk, and of each of its pairs the number of its row and its place among that row's candidates."""


def forwards(chunk: PairChunk) -> Iterator[Chunk]:
    """Yield the model input of each forward pass that a chunk takes."""
    yield from chunk.computed() if isinstance(chunk, SharedBatch) else [chunk]


def with_tensors(chunk: PairChunk, change: Callable[[Any], Any]) -> PairChunk:
    """Return a chunk with something in the place of each tensor, or a tensor in the place of each such thing."""
    return chunk.with_tensors(change) if isinstance(chunk, SharedBatch) else changed(chunk, change)


def changed(chunk: Chunk, change: Callable[[Any], Any]) -> Chunk:
    """Return whole prompts as `with_tensors` does."""
    return {name: change(value) for name, value in chunk.items()}


@dataclass(frozen=True)
class ListOfRow:
    """A row's query with its candidates.

    Args:
        number: of the row.
        listed: what it holds.
        sizes: about how many tokens the prompt with each candidate takes, and how many pixels its pictures have.
    """

    number: int
    listed: Listed
    sizes: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class _Piece:
    """Some candidates of a row, from `start` on, whose prompts are in two parts."""

    row: ListOfRow
    start: int
    listed: Listed
    split: Split
    tokens: int
    pixels: int


def in_two_parts(
    process: PairProcessor, rows: Sequence[ListOfRow], share: Sharing, budget: int
) -> tuple[list[Chunked], list[ListOfRow]]:
    """Return chunks of about `budget` tokens, a query's part counted with each candidate, and the rows not in them."""
    pieces: list[_Piece] = []
    rest: list[ListOfRow] = []
    for row in rows:
        split = share.split(process, row.listed)
        if split is None:
            rest.append(row)
        else:
            pieces += _pieces(row, split, budget)
    return list(_chunks(process, pieces, budget)), rest


def _chunks(process: PairProcessor, pieces: Sequence[_Piece], budget: int) -> Iterator[Chunked]:
    """Yield pieces in chunks; the queries of one all have pictures, or none has."""
    for pictured in (True, False):
        alike = [piece for piece in pieces if bool(piece.listed[0].images) == pictured]
        alike.sort(key=lambda piece: -piece.tokens)
        pixels = [piece.pixels for piece in alike]
        for part in cut_by_budget([piece.tokens for piece in alike], budget, pixels=pixels):
            yield _chunk(process, alike[part], budget)


def _pieces(row: ListOfRow, split: Split, budget: int) -> Iterator[_Piece]:
    """Yield a row's candidates in pieces that a chunk has room for."""
    query, candidates = row.listed
    most = max(1, budget // max(tokens for tokens, _ in row.sizes))
    for start in range(0, len(candidates), most):
        part = slice(start, start + most)
        tokens, pixels = (sum(of) for of in zip(*row.sizes[part], strict=True))
        yield _Piece(row, start, (query, candidates[part]), Split(split.prefix, split.suffixes[part]), tokens, pixels)


def _chunk(process: PairProcessor, pieces: Sequence[_Piece], budget: int) -> Chunked:
    batch, placed = shared_lists(process, [one.listed for one in pieces], [one.split for one in pieces], budget)
    return batch, [(pieces[number].row.number, pieces[number].start + at) for number, at in placed]
