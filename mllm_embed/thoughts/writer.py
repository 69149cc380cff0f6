"""What a model that thinks reads: the prompt, its thought, and what follows up to the token that is pooled.

The three are joined as tokens and never as text, so that a thought that was taught and one that the model wrote itself
stand in the very same row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, ModelError
from ..inputs.item_processor import ItemProcessor
from ..inputs.rendering import FilledPrompt
from ..types import Item
from .form import Thoughts

Thought = tuple[int, ...]
"""The tokens of a thought, none of which marks an end, a turn or a picture."""
LABELS = "thought_labels"
UNTAUGHT = -100  # where a label says nothing, as in transformers


class ThoughtWriter:
    """The layout of an item processor's composed queries with their thoughts."""

    def __init__(self, items: ItemProcessor, thoughts: Thoughts):
        """Take the prompts of `items`.

        Raises ModelError for a tokenizer without an end token, ConfigError where not the last of all tokens is pooled.
        """
        self._items, self.thoughts = items, thoughts
        tokenizer = items.processor.tokenizer
        if tokenizer.eos_token_id is None:
            raise ModelError("this model's tokenizer has no end token, by which a thought would end: it cannot think")
        if not items.pooled.all:
            raise ConfigError(
                f"thoughts go on to the last token, and this model pools '{items.pooled.pooled}': give thoughts=0"
            )
        self._append = items.prompts.prompt("composed").append
        # as the prompt ends without a thought: a model's own embedding token stays its last one
        after = tokenizer(thoughts.then + self._append, add_special_tokens=False)["input_ids"]
        self.suffix: Thought = (tokenizer.eos_token_id, *after)
        marks = set(tokenizer.convert_tokens_to_ids(sorted(items.words.marks))) - {tokenizer.unk_token_id, None}
        self.ends = frozenset(marks | {tokenizer.eos_token_id})

    def thinks(self, item: Item) -> bool:
        """Whether an item is one of those that think first: a query of pictures and what to change in them."""
        return item.side == "query" and item.role == "composed"

    def room(self, item: Item) -> int:
        """Return how many tokens an item may take beyond its prompt and pictures."""
        return self.thoughts.tokens + len(self.suffix) if self.thinks(item) else 0

    def thought(self, words: str) -> Thought:
        """Return words as a thought: in one line, cut where one must end. Raises DataError as `Words.written`."""
        written = self._items.words.written(" ".join(words.split()))
        tokens = self._items.words.tokenizer_for([written])(written, add_special_tokens=False)["input_ids"]
        return tuple(tokens[: self.thoughts.tokens])

    def words(self, thought: Sequence[int]) -> str:
        """Return a thought as words."""
        return self._items.processor.tokenizer.decode(list(thought), skip_special_tokens=True).strip()

    def prompts(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Return the model input of queries up to where their thoughts begin, padded on the left.

        Raises as `ItemProcessor`.
        """
        texts = [self._items.render(item).removesuffix(self._append) for item in items]
        prompts: list[FilledPrompt | None] = [*self._items.tokenise(texts)]
        return self._items(items, prompts, padding_side="left")

    def taught(self, items: Sequence[Item], thoughts: Sequence[Thought], learned: Sequence[bool]) -> dict[str, Tensor]:
        """Return the model input of queries with thoughts that are given, padded on the left.

        Beside it stand `thought_labels` [B, L] int64: of each query whose thought is to be `learned` the tokens of the
        thought, and of one that is shorter than it may be its end; -100 elsewhere.
        """
        batch = extended(self.prompts(items), [thought + self.suffix for thought in thoughts])
        labels = torch.full_like(batch["input_ids"], UNTAUGHT)
        for row, (thought, is_learned) in enumerate(zip(thoughts, learned, strict=True)):
            start = labels.shape[1] - len(thought) - len(self.suffix)
            end = start + len(thought) + (len(thought) < self.thoughts.tokens)
            if is_learned:
                labels[row, start:end] = batch["input_ids"][row, start:end]
        return {**batch, LABELS: labels}


def extended(batch: Mapping[str, Tensor], tokens: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return model input, padded on the left, with more tokens of words behind each row, padded on the left anew.

    Args:
        batch: input_ids and attention_mask [B, L], and the other tensors of the processor.
        tokens: of each row.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    longest = max(length + len(more) for length, more in zip(lengths, tokens, strict=True))
    whole = dict(batch)
    for name in by_token(batch):
        tensor = batch[name]
        whole[name] = tensor.new_zeros(len(tokens), longest, *tensor.shape[2:])
        for row, (length, more) in enumerate(zip(lengths, tokens, strict=True)):
            start = longest - len(more)
            whole[name][row, start - length : start] = tensor[row, tensor.shape[1] - length :]
            # what else is given a token is as for the prompt's last one, which is a word's as well
            whole[name][row, start:] = tensor[row, -1]
    for row, more in enumerate(tokens):
        whole["input_ids"][row, longest - len(more) :] = torch.tensor(list(more), dtype=torch.long)
    return whole


def by_token(batch: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold something of each token, [B, L, ...]."""
    return [name for name, tensor in batch.items() if tensor.shape[:2] == batch["input_ids"].shape]
