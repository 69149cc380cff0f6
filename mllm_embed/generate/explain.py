"""Explanations of a match as words: what the language model would say next where a vector is read off.

After LexLIP (ICCV 2023), whose lexical weight of a word is log(1 + relu(logit)); here nothing is trained for it. The
prompts end in "in one word:", so that the pooled state, put through the model's own head, names what it holds. It is a
reading, not a proof: the score is made of the whole vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ..encode.embedder import MLLMEmbedder
from ..encode.encoder import check_single
from ..types import Document, ImageLike, Item, Query, as_item
from .generator import with_head

_WORD_STARTS = ("\u0120", "\u2581")  # how byte-level BPE and SentencePiece write a space before a word
_CANDIDATES = 64  # tokens that are looked at for a word that is wanted: many are cases of one word, or never trained
_SAME = 0.99  # cosine from which two rows of a head are one

Reading = list[tuple[str, float]]
"""Words with their weights, heaviest first."""


class Explainer:
    """A reader of an embedder's pooled states as words."""

    def __init__(self, embedder: MLLMEmbedder):
        """Load the head of the embedder's base. Raises as `generator.with_head`, ConfigError for a model that makes
        several vectors of an input."""
        check_single(embedder, "an explanation")
        self.embedder, self._head = embedder, with_head(embedder).get_output_embeddings()
        self._words = _words(embedder.processor.tokenizer, self._head.weight.shape[0])

    @torch.inference_mode()
    def read(self, inputs: Sequence[Any], k: int = 8) -> list[Reading]:
        """Return the k heaviest words of each input, of which `types.as_item` says what it may be.

        Upper and lower case count once, at the heavier; tokens that begin no word are left out.
        """
        return [self._reading(self._logits(as_item(value)), k) for value in inputs]

    def _logits(self, item: Item) -> torch.Tensor:
        """Return the logits [V] float32 of the next token after an input."""
        batch = {name: tensor.to(self.embedder.device) for name, tensor in self.embedder.model_input(item).items()}
        states = self.embedder.model.states(packed=False, **batch)
        return self._head(states.to(self._head.weight.dtype))[0].float()

    def _reading(self, logits: torch.Tensor, k: int) -> Reading:
        weights = torch.log1p(torch.relu(logits))
        tokens = torch.tensor(sorted(self._words), device=logits.device)
        best = tokens[weights[tokens].argsort(descending=True, stable=True)[: _CANDIDATES * k]]
        found: dict[str, float] = {}
        for token in best[self._is_trained(best)].tolist():
            if len(found) < k and weights[token] > 0:
                found.setdefault(self._words[token], float(weights[token]))
        return list(found.items())

    def _is_trained(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return which tokens [T] int64 have a row of their own in the head, [T] bool.

        Tokens that no training has met share nearly one row, which would be read as words that mean nothing here.
        """
        rows = F.normalize(self._head.weight[tokens].float(), dim=-1)
        return ((rows @ rows.T) > _SAME).sum(1) <= 1


def _words(tokenizer: Any, size: int) -> dict[int, str]:
    """Return token -> word for the tokens that begin one: pieces of words say nothing to a reader."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
    words = {at: str(token)[1:].lower() for at, token in enumerate(tokens) if str(token).startswith(_WORD_STARTS)}
    return {at: word for at, word in words.items() if word.isalpha()}


def shared(query: Reading, answer: Reading) -> Reading:
    """Return the words of both, by the smaller of their weights, heaviest first."""
    known = dict(answer)
    return sorted(((word, min(weight, known[word])) for word, weight in query if word in known), key=lambda w: -w[1])


def explanation(embedder: MLLMEmbedder, query: Query, pictures: Mapping[int, ImageLike]) -> str:
    """Return lines of words that a model reads in a query and in its answers, by their ranks: shared ones first."""
    asked, *answers = Explainer(embedder).read([query, *map(Document, pictures.values())])
    lines = ["what the model reads in them, words of query and answer before the bar", f"query  {_listed(asked)}"]
    for rank, answer in zip(pictures, answers, strict=True):
        both = shared(asked, answer)
        words = {word for word, _ in both}
        own = [(word, weight) for word, weight in answer if word not in words]
        lines.append(f"{rank:5d}  {_listed(both)} | {_listed(own)}")
    return "\n".join(lines)


def _listed(reading: Reading) -> str:
    return ", ".join(word for word, _ in reading)
