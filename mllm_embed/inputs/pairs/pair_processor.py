"""Queries and candidates as model input: whole prompts in a padded batch, or a query's part once and candidates behind
it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ...errors import DataError
from ...model.prefix_cache import SharedBatch, SuffixBatch
from ...types import Document, ImageLike, Item
from ..item_processor import ItemProcessor
from ..lengths import Lengths
from .prompt import RerankPrompt
from .written import Shape, WrittenPairs

_BLANK = (64, 64)


@dataclass(frozen=True)
class Split:
    """The prompts of a query and its candidates, of which the first part is the same text.

    Args:
        prefix: the query's part.
        suffixes: the part of each candidate.
    """

    prefix: str
    suffixes: tuple[str, ...]


class PairProcessor:
    """A processor that is called on queries with candidates, as a re-ranker's prompt puts them."""

    def __init__(self, items: ItemProcessor, prompt: RerankPrompt):
        """Wrap a model's processor. Raises ModelError for a chat template that cannot write the prompt."""
        self.items, self.prompt = items, prompt
        self.written = WrittenPairs(items, prompt)
        self._lengths = Lengths(items, items.lengths.limit, "give smaller pictures or fewer words")
        self._splits: dict[tuple[Shape, bool], bool] = {}

    def batch(self, pairs: Sequence[tuple[Item, Item]]) -> dict[str, Tensor]:
        """Return pairs of a query and a candidate as a batch: input_ids and attention_mask [B, L] int64, padded on the
        left, pixels, and what the family adds.

        Either all pairs have pictures or none has. Raises ImageError for an unreadable picture, DataError for a pair
        that the model cannot take or whose words have no place.
        """
        return self._batch([(query, [candidate]) for query, candidate in pairs], False)

    def list_batch(self, lists: Sequence[tuple[Item, Sequence[Item]]]) -> dict[str, Tensor]:
        """Return queries, each with several candidates in one prompt, as a batch, as `batch` does.

        Raises ConfigError where the prompt has no form of lists.
        """
        return self._batch(lists, True)

    def _batch(self, lists: Sequence[tuple[Item, Sequence[Item]]], listed: bool) -> dict[str, Tensor]:
        texts = [self.written.text(query, candidates, listed) for query, candidates in lists]
        images = [[*query.images, *_images(candidates)] for query, candidates in lists]
        batch = self.items.batch(texts, [list(map(self.items.load, shown)) for shown in images])
        whole = [Document(image=shown or None, text=_longest(query, candidates) or text)
                 for shown, (query, candidates), text in zip(images, lists, texts, strict=True)]  # fmt: skip
        self._lengths.check(whole, batch["attention_mask"])
        return batch

    def split(self, query: Item, candidates: Sequence[Item]) -> Split | None:
        """Return the prompts of a query and its candidates in two parts; None where these give other tokens than the
        whole.

        Raises DataError as `batch` does.
        """
        wholes = [self.written.text(query, [one]) for one in candidates]
        ids = self.items.tokens(wholes)
        parts = [self.written.parts(query, one) for one in candidates]
        for spaces in (0, len(parts[0][0]) - len(parts[0][0].rstrip(" "))):
            # a tokenizer may join a space to the word behind it
            split = _moved(parts, spaces)
            [prefix], suffixes = self.items.tokens([split.prefix]), self.items.tokens(split.suffixes, begun=True)
            if [prefix + suffix for suffix in suffixes] != ids:
                continue
            if all(self._processed_alike(query, one, spaces) for one in candidates):
                return split
        return None

    def _processed_alike(self, query: Item, candidate: Item, spaces: int) -> bool:
        """Return whether the processor, too, makes the same tokens of the two parts of a prompt as of the whole: what
        it writes around a picture may depend on the others. One prompt of a shape is tried, with small blank pictures.
        """
        key = self.written.shape(query, [candidate]), spaces > 0
        if key not in self._splits:
            blanks = [Image.new("RGB", _BLANK)] * (len(query.images) + len(candidate.images))
            split, count = _moved([self.written.parts(query, candidate)], spaces), len(query.images)
            try:
                whole = self.items.batch([self.written.text(query, [candidate])], [blanks])
                first = self.items.batch([split.prefix], [blanks[:count]])
                then = self.items.batch(list(split.suffixes), [blanks[count:]], begun=True)
            except DataError:  # of a processor that takes no part of a prompt
                self._splits[key] = False
            else:
                ids = torch.cat([first["input_ids"], then["input_ids"]], 1)
                self._splits[key] = ids.tolist() == whole["input_ids"].tolist()
        return self._splits[key]

    def prefixes(self, texts: list[str], queries: Sequence[Item]) -> dict[str, Tensor]:
        """Return the parts of queries as a batch, padded on the left. All have pictures or none has."""
        return self.items.batch(texts, [list(map(self.items.load, query.images)) for query in queries], "left")

    def suffixes(
        self, texts: list[str], candidates: Sequence[Item], owners: Sequence[int], rows: Sequence[int]
    ) -> SuffixBatch:
        """Return the parts of candidates as a batch behind that of their queries, padded on the right.

        All have pictures or none has. `owners` are the numbers of their queries in the batch of prefixes, `rows` their
        own in all.
        """
        pictures = [list(map(self.items.load, one.images)) for one in candidates]
        inputs = self.items.batch(texts, pictures, "right", begun=True)
        return SuffixBatch(inputs, torch.tensor(owners), torch.tensor(rows))

    def check_lengths(self, batch: SharedBatch) -> None:
        """Raise DataError for a batch that holds a longer input than the model takes."""
        limit, longest = self.items.lengths.limit.tokens, int(batch.lengths().max())
        if limit is not None and longest > limit:
            self._lengths.check([Document(text="a query with its candidate")], torch.ones(1, longest))


def _longest(query: Item, candidates: Sequence[Item]) -> str:
    """Return the longest words of a query and candidates, by which one that is too long is named."""
    return max((one.words or "" for one in (query, *candidates)), key=len)


def _images(candidates: Sequence[Item]) -> list[ImageLike]:
    return [image for one in candidates for image in one.images]


def _moved(parts: Sequence[tuple[str, str]], spaces: int) -> Split:
    """Return prompts in two parts, so many last characters of the first moved to the second."""
    prefix = parts[0][0]
    end = len(prefix) - spaces
    return Split(prefix[:end], tuple(prefix[end:] + suffix for _, suffix in parts))
